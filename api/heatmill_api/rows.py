"""Walk a job's rows in the order of its items, while it runs too."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import count

from heatmill import records
from heatmill.keys import CommitName, JobId
from heatmill.schemas import CommitHeader, Row
from heatmill.storage import S3Storage

# Commit records listed at a time: a page needs a few, and to list a thousand takes longer than to read those.
LISTED = 32

Walk = Generator[tuple["Place", Row | None], None, list[CommitHeader]]
"""Rows and their places; the value is the headers of the records that were passed."""


@dataclass(frozen=True, order=True)
class Place:
    """The row with this offset in this shard, whichever commit record of the shard it stands in."""

    shard: int = 0
    offset: int = 0


def walk(storage: S3Storage, job: JobId, start: Place, *, done: bool) -> Iterator[tuple[Place, Row | None]]:
    """The rows from a place on, each with its own place; after a record's last row, the next one's place and None.

    While a job runs the walk ends before the first part that is not committed, so that no row appears later at a place
    that was passed already. What a terminal job lacks (it was cancelled) is skipped.

    Args:
        storage: The object store.
        job: The job.
        start: Where to begin.
        done: The job was terminal before this call.
    """
    shards = records.committed_shards(storage, job, start.shard, LISTED)
    for expected, (number, names) in zip(count(start.shard), shards, strict=False):
        if number != expected and not done:
            return
        following = names if done else _without_gap(names)
        offset = start.offset if number == start.shard else 0
        headers = yield from _walk_shard(storage, job, following, Place(number, offset))
        if not done and not records.is_whole(headers):
            return
        yield Place(number + 1), None


def _without_gap(names: list[CommitName]) -> list[CommitName]:
    """A whole shard's record, or those of its first parts, up to one that is not committed."""
    return [name for position, name in enumerate(names) if name.part in (None, position)]


def _walk_shard(storage: S3Storage, job: JobId, names: list[CommitName], start: Place) -> Walk:
    """The rows of one shard from a place on."""
    headers: list[CommitHeader] = []
    passed = 0
    for name in names:
        # Of what lies before the place the number of rows is enough.
        header = records.load_header(storage, job, *name) if passed < start.offset else None
        if header is None or passed + _count(header) > start.offset:
            header, rows = records.load_commit(storage, job, *name)
            found = ((Place(start.shard, offset), row) for offset, row in enumerate(rows, passed))
            yield from ((place, row) for place, row in found if place >= start)
            yield Place(start.shard, passed + _count(header)), None
        headers.append(header)
        passed += _count(header)
    return headers


def _count(header: CommitHeader) -> int:
    return header.succeeded + header.failed
