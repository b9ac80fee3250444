"""What stands on the command line of `submit`, turned into what the client takes."""

import json
import os
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pydantic import JsonValue, ValidationError

from heatmill.cli.folders import left_out_text, read_folder
from heatmill.client.local_items import NOT_STORED, check_named_once, file_items, local_item
from heatmill.client.uploads import is_uri
from heatmill.errors import InvalidRequest
from heatmill.printable import printable, without_halves
from heatmill.schemas import ItemRequest, MapRequest, MethodRequest
from heatmill.schemas.image_types import IMAGE_TYPES, ending
from heatmill.schemas.item_ids import check_distinct, name_fault, shown_id
from heatmill.schemas.manifest_lines import read_line, refuse_constant

MANIFESTS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Inputs:
    """The images of one submission: items, whose images may be local files, or a source that the service lists.

    Args:
        left_out: How many files of the folders are not taken, by ending or kind; see `cli.folders`.
    """

    items: tuple[ItemRequest, ...] = ()
    source: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """A local image: its id, and the argument that names it."""

    name: str
    path: Path
    argument: str


def read_inputs(arguments: Sequence[str]) -> Inputs:
    """Sort paths and URIs into items and a source.

    A file is an image, a folder all images below it, a `.jsonl` file a manifest whose relative paths start at its own
    folder. `s3://bucket/prefix/` and `s3://.../manifest.jsonl` are a source; any other URI is one image.

    The ids of a single folder's images are their paths from the folder on; those of files that lie in one folder are
    their names. Of other arguments, each id begins with its argument, and manifests without ids name their images from
    their own folders.

    Raises:
        click.BadParameter: Something is not there, is not understood, or cannot be combined; two items have one id, or
            two arguments name one file.
    """
    sources = [argument for argument in arguments if _is_source(argument)]
    if len(sources) > 1 or (sources and len(arguments) > 1):
        raise _wrong(f"{sources[0]} lists a job's items; submit everything else as a job of its own")
    if sources:
        return Inputs(source=sources[0])
    is_alone, left_out = _have_one_root(arguments), Counter[str]()
    files = [
        file for argument in arguments if _is_local(argument) for file in _local_images(argument, is_alone, left_out)
    ]
    named = [(item, str(file.path)) for item, file in zip(_file_items(files), files, strict=True)]
    for argument in arguments:
        if _is_manifest(argument):
            named += _read_manifest(Path(argument), is_alone=is_alone)
        elif is_uri(argument):
            named.append((_uri_item(argument, is_alone=is_alone), argument))
    try:
        check_distinct((item.id, origin) for item, origin in named)
    except InvalidRequest as error:
        raise _wrong(str(error)) from error
    return Inputs(items=tuple(item for item, _ in named), left_out=left_out)


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


def _have_one_root(arguments: Sequence[str]) -> bool:
    """Whether no id need say which argument it is of: there is one, or all are files of one folder."""
    files = all(_is_local(argument) and Path(argument).is_file() for argument in arguments)
    return len(arguments) == 1 or (files and len({Path(argument).parent for argument in arguments}) == 1)


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
    return argument.startswith("s3://") and (argument.endswith("/") or ending(argument) not in IMAGE_TYPES)


def _is_manifest(argument: str) -> bool:
    """Whether it is one, or would be if it were there; a folder is a folder, however it is called."""
    return not is_uri(argument) and ending(argument) in MANIFESTS and not Path(argument).is_dir()


def _is_local(argument: str) -> bool:
    return not is_uri(argument) and not _is_manifest(argument)


def _local_images(argument: str, is_alone: bool, left_out: Counter[str]) -> Iterator[_File]:
    """The images that an argument names; what its folder holds beside them is counted."""
    root = Path(argument)
    if root.is_file():
        yield _File(root.name if is_alone else root.as_posix(), root, argument)
        return
    if not root.is_dir():
        raise _wrong(f"{root} {'is a link to nothing' if root.is_symlink() else 'does not exist'}")
    folder = read_folder(root)
    if not folder.images:
        held = left_out_text(folder.left_out) or "nothing"
        raise _wrong(f"{root} holds no images ({', '.join(sorted(IMAGE_TYPES))}); it holds {held}")
    left_out.update(folder.left_out)
    for path in folder.images:
        yield _File((path if is_alone else root / path).as_posix(), root / path, argument)


def _file_items(files: Sequence[_File]) -> list[ItemRequest]:
    try:
        check_named_once((file.path, file.argument) for file in files)
        return file_items((file.name, file.path) for file in files)
    except InvalidRequest as error:
        raise _wrong(str(error)) from error


def _uri_item(uri: str, *, is_alone: bool) -> ItemRequest:
    name = uri.rstrip("/").rpartition("/")[2] if is_alone else uri
    if (fault := name_fault(name)) is not None:
        return _item({"id": shown_id(name), "image": NOT_STORED, "error": fault}, uri)
    return _item({"id": name, "image": uri}, uri)


def _read_manifest(path: Path, *, is_alone: bool) -> list[tuple[ItemRequest, str]]:
    """Each line's item, and where it stands."""
    try:
        # Some editors begin a file with a mark, which is no part of its first line.
        lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    except OSError as error:
        raise _wrong(f"the manifest {path} cannot be read: {error}") from error
    placed = [(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not placed:
        raise _wrong(f"the manifest {path} lists no images")
    folder = Path() if is_alone else path.parent
    return [(_manifest_item(line, path.parent, folder, where), where) for line, where in placed]


def _manifest_item(line: bytes, folder: Path, named_from: Path, where: str) -> ItemRequest:
    try:
        fields = read_line(line)
    except ValueError as error:
        raise _wrong(f"{where}: {error}") from error
    image = fields.get("image")
    if not isinstance(image, str) or is_uri(image) or not image:
        return _item(fields, where)
    # Not `Path.exists`, which raises where a name is too long.
    if not os.path.exists(folder / image):  # noqa: PTH110
        raise _wrong(f"{where}: {printable(str(folder / image))} does not exist")
    item = _item({**fields, "image": NOT_STORED}, where)
    name = (named_from / image).as_posix() if named_from != Path() else image
    return local_item(item.model_copy(update={"id": item.id or without_halves(name)}), folder / image)


def _item(fields: Any, where: str) -> ItemRequest:
    try:
        return ItemRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _wrong(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error


def _wrong(message: str) -> click.BadParameter:
    """The error that click shows; a name must not command the terminal."""
    return click.BadParameter(printable(message))


def _next_value(text: str) -> tuple[JsonValue, str]:
    """The value at the start of a text, and what follows its comma."""
    try:
        value, end = json.JSONDecoder(parse_constant=refuse_constant).raw_decode(text)
    except ValueError:
        # NaN and Infinity among them: they stay text.
        end = -1
    if end >= 0 and text[end : end + 1] in {"", ","}:
        return value, text[end + 1 :]
    word, _, rest = text.partition(",")
    return word, rest
