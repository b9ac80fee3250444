"""Walk a job's rows in the order of its items, while it runs too."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from heatmill.errors import RecordDamaged
from heatmill.jobs import records
from heatmill.schemas import CommitHeader, Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import CommitName, JobId
from heatmill.storage.read_ahead import read_ahead

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
        has_all: It has a row for each item: it was neither cancelled nor given up.
        reads_shards: The parts of a shard are read at once: for whoever wants many rows.
    """

    storage: S3Storage
    job: JobId
    done: bool
    has_all: bool = False
    reads_shards: bool = False

    def rows(self, start: Place) -> Iterator[tuple[Place, Row | None]]:
        """The rows from a place on, each with its own place; after a record's last row, the next one's place and None.

        While a job runs the walk ends before the first part that is not committed, so that no row appears later at a
        place that was passed already. What a cancelled job lacks is skipped.

        Raises:
            RecordDamaged: What a job lacks that is done otherwise.
        """
        shards = records.committed_shards(self.storage, self.job, start.shard, LISTED)
        following = start.shard
        for number, names in shards:
            if number != following and not self._may_skip(following):
                return
            offset = start.offset if number == start.shard else 0
            headers = yield from self._shard(names if self.done else _without_gap(names), Place(number, offset))
            if not records.is_whole(headers) and not self._may_skip(number):
                return
            following = number + 1
            yield Place(following), None
        if self.has_all and following < self._units():
            self._may_skip(following)

    def _may_skip(self, shard: int) -> bool:
        """Whether the walk goes on although not all of a shard is committed; of a job that has all, it is damaged."""
        if self.has_all:
            raise RecordDamaged(keys.commit(self.job, shard), "it is missing, or a part of it is")
        return self.done

    def _units(self) -> int:
        plan = records.load_plan(self.storage, self.job)
        if plan is None:
            raise RecordDamaged(keys.plan(self.job), "it is missing")
        return plan.shards

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
