"""Files on this machine as items: one id for each, none for two."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from heatmill.errors import InvalidRequest
from heatmill.printable import has_controls, printable
from heatmill.schemas import MAX_ID_LENGTH, MAX_IMAGE_LENGTH, ItemRequest

# Stands for an image that is not stored: not yet, or never.
NOT_STORED = "upload://" + 64 * "0"
# Of the id of a file that fails for its name: the end of its path, and room for a number.
SHOWN_LENGTH = 480


def name_images(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Item id and file: names where all lie in one folder, else paths as they are given."""
    folders = {path.parent for path in paths}
    return [(path.name if len(folders) == 1 else path.as_posix(), path) for path in paths]


def file_items(files: Iterable[tuple[str, Path]]) -> list[ItemRequest]:
    """An item for each file. A file whose name cannot be an id becomes an item that fails, under an id that shows it.

    Raises:
        InvalidRequest: A name is empty.
    """
    faults = [(name, path, _fault(name, path)) for name, path in files]
    taken = {name for name, _, fault in faults if fault is None}
    return [file_item(name, path) if fault is None else _failing(name, fault, taken) for name, path, fault in faults]


def file_item(name: str, path: Path) -> ItemRequest:
    """The item of a file.

    Raises:
        InvalidRequest: The name cannot be an id.
    """
    try:
        return ItemRequest(id=name, image=str(path))
    except ValidationError as error:
        raise InvalidRequest(f"{printable(str(path))[:200]!r} cannot be an item: {error.errors()[0]['msg']}") from error


def check_distinct(named: Iterable[tuple[str | None, str]]) -> None:
    """Check that no two items have one id.

    Args:
        named: The id, or None for an item that is called by its position, and where the item comes from.

    Raises:
        InvalidRequest: Two have; the message names both.
    """
    origins: dict[str, str] = {}
    for number, (name, origin) in enumerate(named):
        known = str(number) if name is None else name
        told = f"{origin} (called by its position)" if name is None else origin
        if known in origins:
            raise InvalidRequest(f"two images have the id {known!r}: {origins[known]} and {told}; ids must differ")
        origins[known] = told


def _fault(name: str, path: Path) -> str | None:
    """Why a file cannot be an item under this name, if so."""
    if not _is_utf8(f"{name}{path}"):
        return "the file's name cannot be an id: it holds bytes that are not UTF-8 characters"
    if has_controls(name):
        return "the file's name cannot be an id: it has control characters"
    if len(name) > MAX_ID_LENGTH:
        return f"the file's name cannot be an id: it has {len(name)} characters; the limit is {MAX_ID_LENGTH}"
    if len(str(path)) > MAX_IMAGE_LENGTH:
        return f"the file's path is too long: it has {len(str(path))} characters; the limit is {MAX_IMAGE_LENGTH}"
    return None


def _failing(name: str, fault: str, taken: set[str]) -> ItemRequest:
    shown = printable(name)
    shown = shown if len(shown) <= SHOWN_LENGTH else f"...{shown[-SHOWN_LENGTH:]}"
    free = next(candidate for candidate in _candidates(shown) if candidate not in taken)
    taken.add(free)
    return ItemRequest(id=free, image=NOT_STORED, error=fault)


def _candidates(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name} ({number})" for number in count(2))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
