"""Walk a job's rows in the order of its items, while it runs too."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import count

from heatmill import records
from heatmill.keys import CommitName, JobId
from heatmill.read_ahead import read_ahead
from heatmill.schemas import CommitHeader, Row
from heatmill.storage import S3Storage

# Commit records listed at a time: a page needs a few, and to list a thousand takes longer than to read those.
LISTED = 32

ShardRows = Generator[tuple["Place", Row | None], None, list[CommitHeader]]
"""Rows and their places; the value is the headers of the records that were passed."""


@dataclass(frozen=True, order=True)
class Place:
    """The row with this offset in this shard, whichever commit record of the shard it stands in."""

    shard: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Walk:
    """How to walk a job's rows.

    Args:
        done: The job was terminal before this call.
        reads_shards: The parts of a shard are read at once: for whoever wants many rows.
    """

    storage: S3Storage
    job: JobId
    done: bool
    reads_shards: bool = False

    def rows(self, start: Place) -> Iterator[tuple[Place, Row | None]]:
        """The rows from a place on, each with its own place; after a record's last row, the next one's place and None.

        While a job runs the walk ends before the first part that is not committed, so that no row appears later at a
        place that was passed already. What a terminal job lacks (it was cancelled) is skipped.
        """
        shards = records.committed_shards(self.storage, self.job, start.shard, LISTED)
        for expected, (number, names) in zip(count(start.shard), shards, strict=False):
            if number != expected and not self.done:
                return
            following = names if self.done else _without_gap(names)
            offset = start.offset if number == start.shard else 0
            headers = yield from self._shard(following, Place(number, offset))
            if not self.done and not records.is_whole(headers):
                return
            yield Place(number + 1), None

    def _shard(self, names: list[CommitName], start: Place) -> ShardRows:
        """The rows of one shard from a place on."""
        headers = self._headers_before(names, start.offset)
        passed = sum(map(_count, headers))
        following = names[len(headers) :]
        for header, rows in read_ahead(self._load, following) if self.reads_shards else map(self._load, following):
            found = ((Place(start.shard, offset), row) for offset, row in enumerate(rows, passed))
            yield from ((place, row) for place, row in found if place >= start)
            headers.append(header)
            passed += _count(header)
            yield Place(start.shard, passed), None
        return headers

    def _headers_before(self, names: list[CommitName], offset: int) -> list[CommitHeader]:
        """Of the records whose rows all stand before an offset: how many those are is all that is wanted of them."""
        found: list[CommitHeader] = []
        for name in names:
            passed = sum(map(_count, found))
            header = records.load_header(self.storage, self.job, *name) if passed < offset else None
            if header is None or passed + _count(header) > offset:
                break
            found.append(header)
        return found

    def _load(self, name: CommitName) -> tuple[CommitHeader, Iterator[Row]]:
        return records.load_commit(self.storage, self.job, *name)


def _without_gap(names: list[CommitName]) -> list[CommitName]:
    """A whole shard's record, or those of its first parts, up to one that is not committed."""
    return [name for position, name in enumerate(names) if name.part in (None, position)]


def _count(header: CommitHeader) -> int:
    return header.succeeded + header.failed
