"""A job's pictures as files in a folder: safe names, whole files only, and `results.jsonl` that says what is what."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path
from typing import IO
from uuid import uuid4

from PIL import Image

from heatmill.errors import ServiceUnavailable
from heatmill.images.overlay import overlay
from heatmill.schemas import Row, StoredFile
from heatmill.schemas.feature_map import JobMap

RESULTS = "results.jsonl"
THREADS = 8
ITEMS_AT_A_TIME = 64
# Most file systems allow names of 255 bytes.
MAX_ITEM_BYTES = 120
MAX_PART_BYTES = 50
OVERLAY_ALPHA, OVERLAY_QUALITY = 0.6, 90
# Windows takes these for devices, whatever follows the first dot.
DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|$)", re.IGNORECASE)

OnFetch = Callable[[int], None]
"""Told how many rows have their files."""


class FetchedRow(Row):
    """A line of `results.jsonl`: a row without its short-lived URLs, and the names of its files.

    Args:
        photo_missing: Why there is neither preview nor overlay, though they were asked for.
    """

    files: dict[str, str]
    photo_missing: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where files come from.

    Args:
        download: The bytes of a file that a row names.
        overlays: Also the previews, and the heatmaps laid over them.
    """

    download: Callable[[StoredFile], bytes]
    overlays: bool = False


@dataclass(frozen=True)
class FileNames:
    """Names without anything that a file system minds; two items never share one, in whatever case."""

    _owners: dict[str, int] = field(default_factory=dict)

    def of_item(self, row: Row) -> str:
        """What the names of an item's files begin with."""
        name = _cut(re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", row.item)), MAX_ITEM_BYTES)
        name = DEVICE.sub(r"_\1", re.sub(r"^[.-]+", "_", name))
        while self._owners.setdefault(name.casefold(), row.index) != row.index:
            name = f"{name}-{row.index}"
        return name


def fetch_rows(rows: Iterable[Row], directory: Path, origin: Origin, on_fetch: OnFetch | None = None) -> int:
    """Write the files of all rows and then `results.jsonl`; give back how many rows there were.

    Raises:
        ServiceUnavailable: A file cannot be had; what was written before stays, without a `results.jsonl`.
        OSError: The folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names, fetched = FileNames(), 0
    items = ((names.of_item(group[0]), group) for group in _by_item(rows))
    fetch_item = partial(_fetch_item, directory, origin)
    with whole_file(directory / RESULTS) as results, ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as pool:
        while window := list(islice(items, ITEMS_AT_A_TIME)):
            for item in pool.map(fetch_item, window):
                results.writelines(row.model_dump_json(exclude_none=True).encode() + b"\n" for row in item)
                fetched += len(item)
                if on_fetch is not None:
                    on_fetch(fetched)
    return fetched


def fetch_map(made: JobMap, directory: Path, download: Callable[[str], bytes]) -> None:
    """Write a map's files, and last `map.json`, which says how it was made.

    Raises:
        ServiceUnavailable: A file cannot be had.
        OSError: The folder cannot be written.
    """
    for ending, url in made.urls.items():
        _write(directory / f"map.{ending}", download(url))
    _write(directory / "map.json", made.model_dump_json(exclude={"urls"}).encode())


def read_fetched(directory: Path) -> Iterator[FetchedRow]:
    """The rows of a folder that `fetch_rows` wrote."""
    with (directory / RESULTS).open("rb") as lines:
        yield from map(FetchedRow.model_validate_json, lines)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name when it is complete, or not at all."""
    partial_path = path.with_name(f".{uuid4().hex}.part")
    try:
        with partial_path.open("xb") as file:
            yield file
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def _by_item(rows: Iterable[Row]) -> Iterator[list[Row]]:
    for _, group in groupby(rows, key=lambda row: row.index):
        yield list(group)


def _fetch_item(directory: Path, origin: Origin, named: tuple[str, list[Row]]) -> list[FetchedRow]:
    name, rows = named
    photo, missing = _photo(origin, rows)
    shared = {} if photo is None else {"photo": _write(directory / f"{name}.photo.jpg", photo)}
    return [
        FetchedRow(
            **_lasting(row),
            files=shared | _fetch_row(directory / f"{name}.{_suffix(row)}", origin, row, photo),
            photo_missing=missing,
        )
        for row in rows
    ]


def _photo(origin: Origin, rows: list[Row]) -> tuple[bytes | None, str | None]:
    """What the model saw of an item's photo, or why there is nothing; neither where nothing is wanted, or drawn."""
    drawn = next((row for row in rows if row.heatmap is not None), None)
    if not origin.overlays or drawn is None:
        return None, None
    if drawn.preview is None:
        return None, "the job was asked for no previews, or it was made before there were any"
    return _whole(drawn.preview, origin.download(drawn.preview)), None


def _fetch_row(stem: Path, origin: Origin, row: Row, photo: bytes | None) -> dict[str, str]:
    """Write one result's files and give back their names by kind."""
    files = {}
    if row.heatmap is not None and row.heatmap.url is not None:
        heatmap = _whole(row.heatmap, origin.download(row.heatmap))
        files["heatmap"] = _write(_with_ending(stem, ".png"), heatmap)
        if photo is not None:
            files["overlay"] = _write(_with_ending(stem, ".overlay.jpg"), _laid_over(photo, heatmap))
    if row.attribution is not None and row.attribution.url is not None:
        files["attribution"] = _write(
            _with_ending(stem, ".npy"), _whole(row.attribution, origin.download(row.attribution))
        )
    return files


def _whole(file: StoredFile, content: bytes) -> bytes:
    """A file as it was written.

    Raises:
        ServiceUnavailable: What is stored is something else.
    """
    if file.sha256 not in {None, hashlib.sha256(content).hexdigest()}:
        raise ServiceUnavailable(f"{file.key} is damaged: it does not hold what was written; submit the image again")
    return content


def _suffix(row: Row) -> str:
    """Tells an item's results apart: two classes may have one label, but never one rank."""
    label = "" if row.target is None else "-" + _cut(re.sub(r"[^\w-]", "_", row.target.label), MAX_PART_BYTES)
    return f"{_cut(re.sub(r'[^A-Za-z0-9_-]', '_', row.method), MAX_PART_BYTES)}.{row.rank}{label}"


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _lasting(row: Row) -> dict[str, object]:
    """The row without its signed URLs: they end within minutes, and whoever has one can read."""
    return row.model_dump(exclude={"heatmap": {"url"}, "attribution": {"url"}, "preview": {"url"}})


def _laid_over(photo: bytes, heatmap: bytes) -> bytes:
    with Image.open(BytesIO(photo)) as below, Image.open(BytesIO(heatmap)) as above:
        # The photo in grey: every colour of the overlay is then the heatmap's.
        picture = overlay(below.convert("L"), above, (0, 0, *below.size), OVERLAY_ALPHA, max(below.size))
    encoded = BytesIO()
    picture.save(encoded, "JPEG", quality=OVERLAY_QUALITY)
    return encoded.getvalue()


def _write(path: Path, content: bytes) -> str:
    with whole_file(path) as file:
        file.write(content)
    return path.name


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")
