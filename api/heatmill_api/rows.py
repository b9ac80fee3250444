"""Walk a job's rows in shard order, while it runs too."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from heatmill import records
from heatmill.keys import JobId
from heatmill.schemas import Row
from heatmill.storage import S3Storage

# Shards listed at a time: a page of results needs one or two, and to list a thousand takes longer than to read those.
LISTED = 32


@dataclass(frozen=True, order=True)
class Place:
    """The row with this offset in this shard."""

    shard: int = 0
    offset: int = 0


def walk(storage: S3Storage, job: JobId, start: Place, *, done: bool) -> Iterator[tuple[Place, Row | None]]:
    """The rows from a place on, each with its own place; after a shard's last row, the next shard's place and None.

    While a job runs the walk ends before the first shard that is not committed, so that no row appears later at a
    place that was passed already. A shard that a terminal job lacks (it was cancelled) is skipped.

    Args:
        storage: The object store.
        job: The job.
        start: Where to begin.
        done: The job was terminal before this call.
    """
    numbers = records.committed_numbers(storage, job, start.shard, LISTED)
    for expected, number in zip(count(start.shard), numbers, strict=False):
        if number != expected and not done:
            return
        first = start.offset if number == start.shard else 0
        for offset, row in enumerate(records.load_rows(storage, job, number)):
            if offset >= first:
                yield Place(number, offset), row
        yield Place(number + 1), None
