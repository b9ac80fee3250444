"""The durable records of a job, read and written as what they are. No other module knows how they are encoded."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel

from heatmill import keys
from heatmill.committed import Committed, Shards
from heatmill.errors import JobDeleted, JobNotFound
from heatmill.job_map import JobMap
from heatmill.keys import JobId
from heatmill.read_ahead import read_ahead
from heatmill.schemas import AcceptedJob, CommitHeader, Item, Job, Plan, Row
from heatmill.storage import ObjectMissing, S3Storage

M = TypeVar("M", bound=BaseModel)
HEADER_BYTES = 1024
# Before it stand the job's id and tenant only, which hold no quotes.
CREATED_AT = re.compile(rb'"created_at":"([^"]+)"')
# In a row's provenance: the job that made a result which was not made again.
CACHED_FROM = "cached_from"
TOMBSTONE = b'{"deleted":true}'


def load_request(storage: S3Storage, job: JobId) -> AcceptedJob:
    """The job as accepted.

    Raises:
        JobNotFound: There is no such job; `JobDeleted` where there was.
    """
    try:
        record = storage.get(keys.request(job))
    except ObjectMissing as error:
        raise JobNotFound(f"there is no job {job.job}") from error
    if record == TOMBSTONE:
        raise JobDeleted(f"job {job.job} was deleted")
    return AcceptedJob.model_validate_json(record)


def bury(storage: S3Storage, job: JobId) -> None:
    """Delete a terminal job: nobody finds it from now on. Its other objects go when its trash marker is swept.

    What is left in place of job.json keeps its id from being used again, by whoever sends its Idempotency-Key.
    """
    storage.put(keys.trash_marker(job), b"")
    storage.put(keys.request(job), TOMBSTONE)
    storage.delete([keys.final(job)])


def load_created_at(storage: S3Storage, job: JobId) -> datetime:
    """When the job was accepted, from the first bytes of its record: the rest may be long.

    Raises:
        JobNotFound: There is no such job.
    """
    try:
        head = storage.get(keys.request(job), max_bytes=HEADER_BYTES)
    except ObjectMissing as error:
        raise JobNotFound(f"there is no job {job.job}") from error
    found = CREATED_AT.search(head)
    return datetime.fromisoformat(found[1].decode()) if found else load_request(storage, job).created_at


def load_plan(storage: S3Storage, job: JobId) -> Plan | None:
    """The plan, where it is complete."""
    return _load(storage, keys.plan(job), Plan)


def load_final(storage: S3Storage, job: JobId) -> Job | None:
    """The terminal job, where it is terminal."""
    return _load(storage, keys.final(job), Job)


def load_map(storage: S3Storage, job: JobId) -> JobMap | None:
    """What is known of the job's map, where it is made or cannot be."""
    return _load(storage, keys.job_map(job, "json"), JobMap)


def load_shard(storage: S3Storage, job: JobId, number: int) -> tuple[Item, ...]:
    """The items of a shard.

    Raises:
        ObjectMissing: The job has no such shard.
    """
    return tuple(Item.model_validate_json(line) for line in storage.get(keys.shard(job, number)).splitlines())


def store_shard(storage: S3Storage, job: JobId, number: int, items: Iterable[Item]) -> None:
    """Write a shard file, once.

    Raises:
        WriteConflict: The shard holds other items.
    """
    storage.write_once(keys.shard(job, number), _lines(items), "application/jsonl")


def load_header(storage: S3Storage, job: JobId, number: int) -> CommitHeader | None:
    """The counts of a committed shard; None where it is not committed."""
    try:
        head = storage.get(keys.commit(job, number), max_bytes=HEADER_BYTES)
    except ObjectMissing:
        return None
    return CommitHeader.model_validate_json(head.split(b"\n", 1)[0])


def load_rows(storage: S3Storage, job: JobId, number: int) -> Iterator[Row]:
    """The rows of a committed shard.

    Raises:
        ObjectMissing: The shard is not committed.
    """
    yield from load_commit(storage, job, number)[1]


def load_commit(storage: S3Storage, job: JobId, number: int) -> tuple[CommitHeader, Iterator[Row]]:
    """The counts and the rows of a committed shard; the rows are parsed as they are taken.

    Raises:
        ObjectMissing: The shard is not committed.
    """
    header, *lines = storage.get(keys.commit(job, number)).splitlines()
    return CommitHeader.model_validate_json(header), (Row.model_validate_json(line) for line in lines)


def commit_record(shard: int, rows: Iterable[Row], seconds: float, worker: str) -> tuple[CommitHeader, bytes]:
    """The commit record of a shard: a header line, then one line per row."""
    rows = tuple(rows)
    body = _lines(rows)
    succeeded = sum(row.status == "succeeded" for row in rows)
    header = CommitHeader(
        shard=shard,
        succeeded=succeeded,
        failed=len(rows) - succeeded,
        cached=sum(CACHED_FROM in row.provenance for row in rows),
        seconds=round(seconds, 3),
        worker=worker,
        sha256=hashlib.sha256(body).hexdigest(),
    )
    return header, header.model_dump_json().encode() + b"\n" + body


def committed_numbers(storage: S3Storage, job: JobId, start: int = 0, at_a_time: int = 1000) -> Iterator[int]:
    """The numbers of the committed shards from `start` on, in order; so many are listed at a time."""
    after = keys.commit(job, start - 1) if start else ""
    return (keys.commit_number(entry.key) for entry in storage.list(keys.commits(job), after, at_a_time))


def committed(storage: S3Storage, job: JobId) -> Committed:
    """What all commit records add up to: the truth that Redis' counts are a copy of."""
    counts: Counter[str] = Counter()

    def counted() -> Iterator[int]:
        for number, header in read_ahead(numbered, committed_numbers(storage, job)):
            if header is not None:
                counts.update(succeeded=header.succeeded, failed=header.failed, cached=header.cached)
            yield number

    def numbered(number: int) -> tuple[int, CommitHeader | None]:
        return number, load_header(storage, job, number)

    return Committed(Shards.of(counted()), counts["succeeded"], counts["failed"], counts["cached"])


def _load(storage: S3Storage, key: str, schema: type[M]) -> M | None:
    try:
        return schema.model_validate_json(storage.get(key))
    except ObjectMissing:
        return None


def _lines(models: Iterable[BaseModel]) -> bytes:
    return b"".join(model.model_dump_json(exclude_defaults=True).encode() + b"\n" for model in models)
