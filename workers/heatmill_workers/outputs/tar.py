"""The layout `webdataset`: all files of a part of a shard in one tar, one write instead of two for each result.

Each item is a sample as the webdataset library reads it: its members stand together, and the part of their names up to
the first dot is its key.

    0001.saliency.281.png      the heatmap of item 1 of the shard: method, class
    0001.saliency.281.npy      the attribution
    0001.preview.jpg           what the model saw of the item
    0001.json                  the item's id, and all its rows, the failed ones too

The tar is write-once, as the commit record is: rows name byte ranges in it, and a worker that was frozen before its
write must not change what a record names. Who comes second with other bytes, after a crash between tar and record on
another device say, takes its rows out of the tar that is there.
"""

import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import groupby
from tempfile import SpooledTemporaryFile, TemporaryFile
from threading import Lock
from types import TracebackType
from typing import Self

import structlog

from heatmill.jobs.parts import Part
from heatmill.schemas import Row, Schema
from heatmill.schemas.byte_range import ByteRange, byte_range
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage, WriteConflict
from heatmill_workers.outputs.layout import Files, ShardOutputs, at, read_files
from heatmill_workers.outputs.preview import Previews, with_preview

# The tar is on disk from here on: a part has up to 64 items, 350 KB each for three float16 channels of 224 x 224.
SPOOL_BYTES = 16 * 1024 * 1024

log = structlog.get_logger()


class Sample(Schema):
    """The JSON of one item."""

    item: str
    index: int
    results: tuple[Row, ...]


class ShardTars:
    """The tars of one shard while they grow: one for each part, opened with its first file."""

    def __init__(self, storage: S3Storage, outputs: ShardOutputs) -> None:
        self._storage = storage
        self.outputs, self.previews = outputs, Previews()
        self._tars: dict[int, PartTar] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tar in self._tars.values():
            tar.close()

    def store(self, row: Row, files: Files) -> Row:
        """Keep them until the item is whole; the row does not say yet where they will be."""
        return self._tar(self.outputs.part(row.index)).store(row, files)

    def copy(self, row: Row) -> Row:
        """Read them."""
        return self.store(row, read_files(self._storage, row))

    def with_locations(self, rows: Iterable[Row]) -> list[Row]:
        """Add the items' members to the tars."""
        items = groupby(rows, lambda row: row.index)
        return [row for index, item in items for row in self._tar(self.outputs.part(index)).with_locations(list(item))]

    def finish(self, part: Part, rows: list[Row]) -> list[Row]:
        """Write the part's tar, once; where there is another, its rows stand."""
        tar = self._tar(part)
        try:
            return tar.finish(rows)
        finally:
            tar.close()

    def _tar(self, part: Part) -> "PartTar":
        with self._lock:
            if part.number not in self._tars:
                self._tars[part.number] = PartTar(self._storage, self.outputs, part, self.previews)
            return self._tars[part.number]


class PartTar:
    """One part's tar while it grows. Holds the files of items that are not placed, and at most `SPOOL_BYTES` more."""

    def __init__(self, storage: S3Storage, outputs: ShardOutputs, part: Part, previews: Previews) -> None:
        self._storage, self._outputs, self._previews = storage, outputs, previews
        self._key = keys.shard_tar(outputs.job, outputs.number, part.number)
        self._file = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed by `close`
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._lock = Lock()
        # Of items that are not placed: index -> (method, rank) -> files.
        self._waiting: defaultdict[int, dict[tuple[str, int], Files]] = defaultdict(dict)

    def close(self) -> None:
        """Let go of what is not stored."""
        self._file.close()

    def store(self, row: Row, files: Files) -> Row:
        """Keep them until the item is whole."""
        with self._lock:
            self._waiting[row.index][row.method, row.rank] = files
        return row

    def with_locations(self, rows: list[Row]) -> list[Row]:
        """Add one item's members."""
        with self._lock:
            files = self._waiting.pop(rows[0].index, {})
        located = self._previewed([self._with_members(row, files) for row in rows])
        sample = Sample(item=rows[0].item, index=rows[0].index, results=tuple(located))
        self._add(f"{self._outputs.item(rows[0])}.json", sample.model_dump_json(exclude_defaults=True).encode())
        return located

    def finish(self, rows: list[Row]) -> list[Row]:
        """Write the tar, once; where there is another, its rows stand."""
        self._tar.close()
        self._file.seek(0)
        try:
            self._storage.write_once(self._key, self._file, "application/x-tar")
        except WriteConflict:
            try:
                return list(self._stored_rows())
            except (tarfile.TarError, ValueError, KeyError):
                # Of no use to anybody, and no record names it: else this part would not be done again.
                log.exception("a damaged tar is replaced", key=self._key)
                self._file.seek(0)
                self._storage.put(self._key, self._file, "application/x-tar")
        return rows

    def _with_members(self, row: Row, files: dict[tuple[str, int], Files]) -> Row:
        if row.heatmap is None:
            return row
        mine, name = files[row.method, row.rank], self._outputs.result(row)
        heatmap, attribution = self._add(f"{name}.png", mine.png), self._add(f"{name}.npy", mine.npy)
        return at(row, {"key": self._key, "range": heatmap}, {"key": self._key, "range": attribution})

    def _previewed(self, rows: list[Row]) -> list[Row]:
        made, shown, stored = self._previews.pop(rows[0].index), any(row.heatmap for row in rows), None
        if made is not None and shown:
            stored = made.at(self._key, self._add(f"{self._outputs.item(rows[0])}.preview.jpg", made.jpeg))
        return [with_preview(row, stored) for row in rows]

    def _add(self, name: str, data: bytes) -> ByteRange:
        # Time and owner stay at nought: the same results are the same bytes.
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        return byte_range(self._file.tell() - blocks * tarfile.BLOCKSIZE, len(data))

    def _stored_rows(self) -> Iterator[Row]:
        with TemporaryFile() as file:
            self._storage.download(self._key, file)
            file.seek(0)
            with tarfile.open(fileobj=file) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.name.endswith(".json") else None
                    yield from Sample.model_validate_json(content.read(), extra="ignore").results if content else ()
