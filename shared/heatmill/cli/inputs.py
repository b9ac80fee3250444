"""What stands on the command line of `submit`, turned into what the client takes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import JsonValue, ValidationError

from heatmill.image_types import IMAGE_TYPES
from heatmill.schemas import ItemRequest, MapRequest, MethodRequest
from heatmill.uploads import is_uri, name_images

MANIFESTS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Inputs:
    """The images of one submission: items, whose images may be local files, or a source that the service lists."""

    items: tuple[ItemRequest, ...] = ()
    source: str | None = None


def read_inputs(arguments: Sequence[str]) -> Inputs:
    """Sort paths and URIs into items and a source.

    A file is an image, a folder all images below it, a `.jsonl` file a manifest whose relative paths start at its own
    folder. `s3://bucket/prefix/` and `s3://.../manifest.jsonl` are a source; any other URI is one image.

    Raises:
        click.BadParameter: Something is not there, is not understood, or cannot be combined.
    """
    sources = [argument for argument in arguments if _is_source(argument)]
    if len(sources) > 1 or (sources and len(arguments) > 1):
        raise click.BadParameter(f"{sources[0]} lists a job's items; submit everything else as a job of its own")
    if sources:
        return Inputs(source=sources[0])
    paths = [path for argument in arguments if _is_local(argument) for path in _local_images(Path(argument))]
    items = [_item({"id": name, "image": str(path)}, str(path)) for name, path in name_images(paths).items()]
    for argument in arguments:
        if argument.endswith(MANIFESTS):
            items += _read_manifest(Path(argument))
        elif is_uri(argument):
            items.append(_item({"id": argument.rstrip("/").rsplit("/", 1)[1], "image": argument}, argument))
    return Inputs(items=tuple(items))


def parse_method(text: str) -> MethodRequest:
    """Read `NAME` or `NAME:param=value,...`.

    A value is JSON where it reads as such, so that numbers, true, null, "quoted, text" and [lists] mean what they say;
    anything else is text up to the next comma.

    Raises:
        click.BadParameter: A param has no value, or two.
    """
    name, params = _name_and_params(text)
    try:
        return MethodRequest(name=name, params=params)
    except ValidationError as error:
        raise click.BadParameter(f"{text!r}: the name of the method: {error.errors()[0]['msg']}") from error


def parse_map(text: str | None) -> MapRequest | None:
    """Read `NAME` or `NAME:param=value,...`, as for `parse_method`.

    Raises:
        click.BadParameter: There is no such map, or a param is wrong.
    """
    if text is None:
        return None
    name, params = _name_and_params(text)
    try:
        return MapRequest.model_validate({**params, "method": name})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise click.BadParameter(f"{text!r}: {field}: {first['msg']}", param_hint="--map") from error


def parse_target(text: str | None) -> int | str | None:
    """A class index where it is a number, else a label."""
    return int(text) if text is not None and text.isdecimal() else text


def parse_metadata(pairs: Iterable[str]) -> dict[str, str]:
    """Read `key=value` pairs.

    Raises:
        click.BadParameter: One has no `=`.
    """
    metadata = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r}: write key=value")
        metadata[key] = value
    return metadata


def _name_and_params(text: str) -> tuple[str, dict[str, JsonValue]]:
    name, _, rest = text.partition(":")
    params: dict[str, JsonValue] = {}
    while rest:
        param, equals, rest = rest.partition("=")
        if not equals or not param.strip():
            raise click.BadParameter(f"{text!r}: write NAME:param=value,param=value")
        if param.strip() in params:
            raise click.BadParameter(f"{text!r}: {param.strip()} is given twice")
        params[param.strip()], rest = _next_value(rest)
    return name, params


def _is_source(argument: str) -> bool:
    return argument.startswith("s3://") and Path(argument).suffix.lower() not in IMAGE_TYPES


def _is_local(argument: str) -> bool:
    return not is_uri(argument) and not argument.endswith(MANIFESTS)


def _local_images(path: Path) -> Iterator[tuple[str, Path]]:
    """Item ids and files; a folder's files are named from the folder on."""
    if path.is_file():
        yield path.name, path
        return
    if not path.is_dir():
        raise click.BadParameter(f"{path} does not exist")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_TYPES and file.is_file())
    if not files:
        raise click.BadParameter(f"{path} holds no images ({', '.join(sorted(IMAGE_TYPES))})")
    for file in files:
        yield file.relative_to(path).as_posix(), file


def _read_manifest(path: Path) -> list[ItemRequest]:
    try:
        # Some editors begin a file with a mark, which is no part of its first line.
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"the manifest {path} cannot be read: {error}") from error
    return [
        _manifest_item(line, path.parent, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _manifest_item(line: str, folder: Path, where: str) -> ItemRequest:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise click.BadParameter(f"{where}: not JSON: {error}") from error
    item = _item(fields, where)
    if is_uri(item.image):
        return item
    return item.model_copy(update={"id": item.id or item.image, "image": str(folder / item.image)})


def _item(fields: Any, where: str) -> ItemRequest:
    try:
        return ItemRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise click.BadParameter(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error


def _next_value(text: str) -> tuple[JsonValue, str]:
    """The value at the start of a text, and what follows its comma."""
    try:
        value, end = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text)
    except ValueError:
        end = -1
    if end >= 0 and text[end : end + 1] in {"", ","}:
        return value, text[end + 1 :]
    word, _, rest = text.partition(",")
    return word, rest


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are Python's, not JSON's: they stay text."""
    raise ValueError(name)
