"""The images of a folder, and what else lies there: counted, so that nothing is left out in silence."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from heatmill.printable import printable
from heatmill.schemas.image_types import IMAGE_TYPES, ending

HIDDEN = "hidden"
LINKED = "linked"
SPECIAL = "special"
UNREADABLE = "unreadable"
# Kinds of files that are told one by one.
TOLD_KINDS = 12


@dataclass(frozen=True)
class Folder:
    """A folder's content.

    Args:
        images: Paths from the folder on, sorted.
        left_out: How many files are not taken, by ending; hidden images; links to folders or to nothing; pipes and
            other special files; folders that cannot be read.
    """

    images: tuple[Path, ...]
    left_out: Mapping[str, int]


def read_folder(root: Path) -> Folder:
    """All images below a folder. Linked files are files; links to folders are not followed.

    Raises:
        OSError: The folder cannot be read.
    """
    images: list[Path] = []
    left_out: Counter[str] = Counter()
    for path, kind in _walk(root):
        if kind is None:
            images.append(path)
        else:
            left_out[kind] += 1
    return Folder(tuple(sorted(images)), left_out)


def left_out_text(left_out: Mapping[str, int]) -> str:
    """The counts in words, the largest first."""
    kinds = sorted(left_out.items(), key=lambda counted: (-counted[1], counted[0]))
    told = [f"{number} {printable(kind)[:40] or 'without an ending'}" for kind, number in kinds[:TOLD_KINDS]]
    others = sum(number for _, number in kinds[TOLD_KINDS:])
    return ", ".join([*told, *([f"{others} others"] if others else [])])


def _walk(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Each file's path from the root on, and why it is left out; None for an image that is taken."""
    # Folders, and whether they lie in a hidden one.
    waiting = [(Path(), False)]
    while waiting:
        folder, is_hidden = waiting.pop()
        try:
            entries = _entries(root / folder)
        except OSError:
            if folder == Path():
                raise
            yield folder, UNREADABLE
            continue
        for entry in entries:
            path, hidden = folder / entry.name, is_hidden or _is_hidden(entry.name)
            if entry.is_dir(follow_symlinks=False):
                waiting.append((path, hidden))
            elif (kind := _kind(entry)) is None or not hidden:
                # Of what is hidden, only images are told: the rest is the file system's own.
                yield path, HIDDEN if hidden else kind


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return list(entries)


def _is_hidden(name: str) -> bool:
    """One dot in front hides a file; two are part of a name that somebody gave."""
    return name.startswith(".") and not name.startswith("..")


def _kind(entry: "os.DirEntry[str]") -> str | None:
    """What a file is that is not read; None for an image."""
    try:
        is_file = entry.is_file()
    except OSError:
        # A link to itself.
        is_file = False
    if not is_file:
        return LINKED if entry.is_symlink() else SPECIAL
    kind = ending(entry.name)
    return None if kind in IMAGE_TYPES else kind
