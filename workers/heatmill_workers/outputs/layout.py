"""Where the results of a shard lie: a function of ids, so that doing a shard twice writes the same."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from heatmill.jobs.parts import Part
from heatmill.schemas import Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId, ShardId
from heatmill_workers.outputs.preview import Previews, store_previews

# Of a row whose files are not stored yet.
KEY_PENDING = ""
PNG = "image/png"
NPY = "application/octet-stream"
# As many results are stored at once; of each, one file by a thread of these.
WRITERS = 8


@dataclass(frozen=True)
class Files:
    """The heatmap and the attribution of one result, encoded."""

    png: bytes
    npy: bytes


@dataclass(frozen=True)
class ShardOutputs:
    """The names of one shard's results.

    Args:
        first_index: Of its items.
        parts: All that the shard has.
    """

    job: JobId
    number: int
    first_index: int
    parts: tuple[Part, ...]

    def part(self, index: int) -> Part:
        """The part to which an item belongs."""
        return next(part for part in self.parts if index - self.first_index in part.positions)

    def item(self, row: Row) -> str:
        """What the names of an item's files begin with."""
        return f"{row.index - self.first_index:04}"

    def result(self, row: Row) -> str:
        """What the names of a result's files begin with.

        Raises:
            ValueError: The row tells of none.
        """
        if row.target is None:
            raise ValueError("it tells of no result")
        return f"{self.item(row)}.{row.method}.{row.target.index}"


class Layout(Protocol):
    """How the results of a shard are stored. Safe in threads, but for `with_locations` and `finish`."""

    @property
    def outputs(self) -> ShardOutputs:
        """Their names."""

    @property
    def previews(self) -> Previews:
        """What the model saw of the items; `finish` stores them, or `with_locations`."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what is not stored."""

    def store(self, row: Row, files: Files) -> Row:
        """Take a result's files; the row says where they are, where that is known already.

        Raises:
            StorageUnavailable: The store does not answer.
        """

    def copy(self, row: Row) -> Row:
        """Take the files that a row names and that lie in another job.

        Raises:
            ObjectMissing: They are gone.
            StorageUnavailable: The store does not answer.
            ValueError: The row names none.
        """

    def with_locations(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of whole items, in their order, with the places of their files; what else was taken is dropped."""

    def finish(self, part: Part, rows: list[Row]) -> list[Row]:
        """Store what is not stored yet of a part; gives the rows that stand.

        Args:
            part: Nothing more comes of it.
            rows: All of the part, as `with_locations` gave them.

        Raises:
            StorageUnavailable: The store does not answer.
        """


class SingleObjects:
    """The layout `objects`: each file by itself, stored as it comes; the two of a result at once."""

    def __init__(self, storage: S3Storage, outputs: ShardOutputs) -> None:
        self._storage = storage
        self._others = ThreadPoolExecutor(WRITERS)
        self.outputs, self.previews = outputs, Previews()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the threads go; nothing else is held."""
        self._others.shutdown()

    def store(self, row: Row, files: Files) -> Row:
        """Write both."""
        heatmap, attribution = self._keys(row)
        put = self._storage.put
        self._at_once(partial(put, heatmap, files.png, PNG), partial(put, attribution, files.npy, NPY))
        return at(row, {"key": heatmap}, {"key": attribution})

    def copy(self, row: Row) -> Row:
        """Inside the store, where each is an object there too."""
        if row.heatmap is None or row.attribution is None or row.heatmap.range or row.attribution.range:
            return self.store(at(row, {"range": None}, {"range": None}), read_files(self._storage, row))
        heatmap, attribution = self._keys(row)
        copy = self._storage.copy
        self._at_once(partial(copy, row.heatmap.key, heatmap), partial(copy, row.attribution.key, attribution))
        return at(row, {"key": heatmap}, {"key": attribution})

    def with_locations(self, rows: Iterable[Row]) -> list[Row]:
        """As they are."""
        return list(rows)

    def finish(self, part: Part, rows: list[Row]) -> list[Row]:
        """All is stored, but for the previews."""
        shard = ShardId(self.outputs.job, self.outputs.number)
        return store_previews(self._storage, shard, part, rows, self.previews)

    def _at_once(self, one: Callable[[], None], other: Callable[[], None]) -> None:
        """Both are over when this is, whatever becomes of them: nothing is written later over what comes next."""
        second = self._others.submit(other)
        try:
            one()
        finally:
            wait([second])
        second.result()

    def _keys(self, row: Row) -> tuple[str, str]:
        job, number, name = self.outputs.job, self.outputs.number, self.outputs.result(row)
        return keys.heatmap(job, number, name), keys.attribution(job, number, name)


def read_files(storage: S3Storage, row: Row) -> Files:
    """The files that a row names.

    Raises:
        ObjectMissing: They are gone.
        StorageUnavailable: The store does not answer.
        ValueError: The row names none.
    """
    if row.heatmap is None or row.attribution is None:
        raise ValueError("it tells of no result")
    return Files(*(storage.get_part(file.key, file.range) for file in (row.heatmap, row.attribution)))


def at(row: Row, heatmap: Mapping[str, str | None], attribution: Mapping[str, str | None]) -> Row:
    """The row with its files elsewhere.

    Raises:
        ValueError: It has none.
    """
    if row.heatmap is None or row.attribution is None:
        raise ValueError("it tells of no result")
    files = {
        "heatmap": row.heatmap.model_copy(update=heatmap),
        "attribution": row.attribution.model_copy(update=attribution),
    }
    return row.model_copy(update=files)
