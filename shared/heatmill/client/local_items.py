"""Files on this machine as items: one id for each, none for two."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from heatmill.errors import InvalidRequest
from heatmill.printable import is_utf8, printable
from heatmill.schemas import MAX_IMAGE_LENGTH, ItemRequest
from heatmill.schemas.item_ids import free_id, name_fault

# Stands for an image that is not stored: not yet, or never.
NOT_STORED = "upload://" + 64 * "0"


def name_images(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Item id and file: names where all lie in one folder, else paths as they are given."""
    folders = {path.parent for path in paths}
    return [(path.name if len(folders) == 1 else path.as_posix(), path) for path in paths]


def check_named_once(files: Iterable[tuple[Path, str]]) -> None:
    """Refuse a file that is named twice, in whatever words: under two ids it would be explained twice.

    Args:
        files: Each file, and what the caller named it by.

    Raises:
        InvalidRequest: The message has both names.
    """
    folders: dict[Path, Path] = {}
    names: dict[Path, str] = {}
    for path, name in files:
        folder = path.parent
        # What a file links to is no matter: each link is a file of its own.
        place = folders.setdefault(folder, folder.resolve()) / path.name
        if place in names:
            raise InvalidRequest(f"the file {path} is named twice, by {names[place]!r} and {name!r}; name it once")
        names[place] = name


def file_items(files: Iterable[tuple[str, Path]]) -> list[ItemRequest]:
    """An item for each file. A file whose name cannot be an id becomes an item that fails, under an id that shows it.

    A name with bytes that are no UTF-8 has them as escapes in its id, and a number where another file is called so.

    Raises:
        InvalidRequest: A name is empty.
    """
    faults = [(name, path, name_fault(name) or _path_fault(path)) for name, path in files]
    taken = {name for name, _, fault in faults if fault is None and is_utf8(name)}
    return [_file_item(name, path, fault, taken) for name, path, fault in faults]


def local_item(item: ItemRequest, path: str | Path) -> ItemRequest:
    """The item with a file of this machine as its image, whose path may hold what no text of a request holds."""
    return item.model_copy(update={"image": str(path)})


def _file_item(name: str, path: Path, fault: str | None, taken: set[str]) -> ItemRequest:
    if fault is not None:
        return ItemRequest(id=free_id(name, taken), image=NOT_STORED, error=fault)
    return file_item(name if is_utf8(name) else free_id(name, taken), path)


def file_item(name: str, path: Path) -> ItemRequest:
    """The item of a file.

    Raises:
        InvalidRequest: The name cannot be an id.
    """
    try:
        return local_item(ItemRequest(id=name, image=NOT_STORED), path)
    except ValidationError as error:
        raise InvalidRequest(f"{printable(str(path))[:200]!r} cannot be an item: {error.errors()[0]['msg']}") from error


def _path_fault(path: Path) -> str | None:
    if len(str(path)) > MAX_IMAGE_LENGTH:
        return f"the file's path is too long: it has {len(str(path))} characters; the limit is {MAX_IMAGE_LENGTH}"
    return None
