"""The durable records of a job, read and written as what they are. No other module knows how they are encoded."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from itertools import groupby, islice
from typing import TypeVar

from pydantic import BaseModel

from heatmill.coordination.shard_set import CommittedTotals, HalfDone, ShardSet
from heatmill.errors import JobDeleted, JobNotFound, StorageUnavailable
from heatmill.jobs.documents import check_sha256, checked, decode, decode_line, encode, encode_lines
from heatmill.jobs.parts import Part
from heatmill.schemas import AcceptedJob, CommitHeader, Item, Job, Plan, Row, ShardHeader
from heatmill.schemas.feature_map import JobMap
from heatmill.storage import keys
from heatmill.storage.bucket import AccessRefused, ListedObject, ObjectMissing, S3Storage
from heatmill.storage.keys import CommitName, JobId, ShardId
from heatmill.storage.read_ahead import read_ahead

M = TypeVar("M", bound=BaseModel)
HEADER_BYTES = 1024
# Before it stand the job's id and tenant only, which hold no quotes.
CREATED_AT = re.compile(rb'"created_at":"([^"]+)"')
# In a row's provenance: the job that made a result which was not made again.
CACHED_FROM = "cached_from"
COUNTED = ("succeeded", "failed", "cached")
TOMBSTONE = b'{"deleted":true}'
RECORD_ENDINGS = (".json", ".jsonl")
# That make room for the deletion of their job: three calls, and seconds where a store deletes one by one.
FILES_AT_A_TIME = 3000


def load_request(storage: S3Storage, job: JobId) -> AcceptedJob:
    """The job as accepted.

    Raises:
        JobNotFound: There is no such job; `JobDeleted` where there was.
        RecordDamaged: What is stored is not the request of this job.
    """
    key = keys.request(job)
    try:
        record = storage.get(key)
    except ObjectMissing as error:
        raise JobNotFound(f"there is no job {job.job}") from error
    if record == TOMBSTONE:
        raise JobDeleted(f"job {job.job} was deleted")
    accepted = decode(AcceptedJob, key, record)
    return checked(accepted, key, lambda found: (found.tenant, found.id), (job.tenant, job.job))


def mark_deleted(storage: S3Storage, job: JobId) -> None:
    """Delete a terminal job: nobody finds it from now on. Its other objects go when its trash marker is swept.

    What is left in place of job.json keeps its id from being used again, by whoever sends its Idempotency-Key.

    Raises:
        StorageUnavailable: The store takes nothing, also after some of the job's files are gone: call it again.
    """
    try:
        _mark_deleted(storage, job)
    except AccessRefused:
        raise
    except StorageUnavailable:
        # A store that is full has room for it without some of the files. Not all say that this is what they are.
        storage.delete(islice(_files(storage, job), FILES_AT_A_TIME))
        _mark_deleted(storage, job)


def _mark_deleted(storage: S3Storage, job: JobId) -> None:
    storage.put(keys.trash_marker(job), b"")
    storage.put(keys.request(job), TOMBSTONE)
    storage.delete([keys.final(job)])


def _files(storage: S3Storage, job: JobId) -> Iterator[str]:
    """What a job holds beside its records: without these it is still known, with all of its rows."""
    listed = (entry.key for entry in storage.list(job.prefix))
    return (key for key in listed if key != keys.cancelled(job) and not key.endswith(RECORD_ENDINGS))


def load_created_at(storage: S3Storage, job: JobId) -> datetime:
    """When the job was accepted, from the first bytes of its record: the rest may be long.

    Raises:
        JobNotFound: There is no such job.
        RecordDamaged: What is stored is not the request of this job.
    """
    try:
        head = storage.get(keys.request(job), max_bytes=HEADER_BYTES)
    except ObjectMissing as error:
        raise JobNotFound(f"there is no job {job.job}") from error
    found = CREATED_AT.search(head)
    return datetime.fromisoformat(found[1].decode()) if found else load_request(storage, job).created_at


def load_plan(storage: S3Storage, job: JobId) -> Plan | None:
    """The plan, where it is complete.

    Raises:
        RecordDamaged: What is stored is no plan of this job.
    """
    return _load(storage, keys.plan(job), Plan, lambda plan: plan.job or job.job, job.job)


def load_final(storage: S3Storage, job: JobId) -> Job | None:
    """The terminal job, where it is terminal.

    Raises:
        RecordDamaged: What is stored is no end of this job.
    """
    return _load(storage, keys.final(job), Job, lambda final: final.id, job.job)


def load_map(storage: S3Storage, job: JobId) -> JobMap | None:
    """What is known of the job's map, where it is made or cannot be."""
    return _load(storage, keys.job_map(job, "json"), JobMap)


def load_shard(storage: S3Storage, job: JobId, number: int) -> tuple[Item, ...]:
    """The items of a shard.

    Raises:
        ObjectMissing: The job has no such shard.
        RecordDamaged: What is stored is not that shard.
    """
    key = keys.shard(job, number)
    first, _, rest = storage.get(key).partition(b"\n")
    if b'"sha256":' not in first:
        # As earlier versions wrote them.
        first, rest = b"", first + b"\n" + rest
    lines = rest.splitlines()
    if first:
        header = decode(ShardHeader, key, first)
        checked(header, key, lambda found: (found.job, found.shard, found.items), (job.job, number, len(lines)))
        check_sha256(key, header.sha256, rest)
    return tuple(decode_line(Item, key, line) for line in lines)


def store_shard(storage: S3Storage, job: JobId, number: int, items: Iterable[Item]) -> None:
    """Write a shard file, once.

    Raises:
        WriteConflict: The shard holds other items.
    """
    listed = tuple(items)
    body = encode_lines(listed)
    header = ShardHeader(job=job.job, shard=number, items=len(listed), sha256=hashlib.sha256(body).hexdigest())
    storage.write_once(keys.shard(job, number), encode(header) + b"\n" + body, "application/jsonl")


def load_header(storage: S3Storage, job: JobId, number: int, part: int | None = None) -> CommitHeader | None:
    """The counts of a part of a shard, or of a whole one; None where there is no such record.

    Raises:
        RecordDamaged: What is stored does not begin like that record.
    """
    key = keys.commit(job, number, part)
    try:
        head = storage.get(key, max_bytes=HEADER_BYTES)
    except ObjectMissing:
        return None
    return _header(job, CommitName(number, part), head.partition(b"\n")[0])


def load_rows(storage: S3Storage, job: JobId, number: int) -> Iterator[Row]:
    """The rows of a shard, as far as it is committed.

    Raises:
        ObjectMissing: Nothing of it is committed.
    """
    names = shard_names(storage, job, number)
    if not names:
        raise ObjectMissing(keys.shard_commits(job, number))
    for name in names:
        yield from load_commit(storage, job, *name)[1]


def load_commit(
    storage: S3Storage, job: JobId, number: int, part: int | None = None
) -> tuple[CommitHeader, Iterator[Row]]:
    """The counts and the rows of a commit record; the rows are parsed as they are taken.

    Raises:
        ObjectMissing: There is no such record.
        RecordDamaged: What is stored is not that record as it was written.
    """
    key = keys.commit(job, number, part)
    first, _, body = storage.get(key).partition(b"\n")
    header = _header(job, CommitName(number, part), first)
    check_sha256(key, header.sha256, body)
    return header, (decode_line(Row, key, line) for line in body.splitlines())


def commit_record(
    shard: ShardId, rows: Iterable[Row], seconds: float, worker: str, part: Part | None = None
) -> tuple[CommitHeader, bytes]:
    """The commit record of a part of a shard, or of a whole one: a header line, then one line per row."""
    rows = tuple(rows)
    body = encode_lines(rows)
    succeeded = sum(row.status == "succeeded" for row in rows)
    header = CommitHeader(
        job=shard.job.job,
        shard=shard.number,
        part=None if part is None else part.number,
        parts=1 if part is None else part.of,
        items=(rows[0].index, rows[-1].index + 1) if rows else None,
        succeeded=succeeded,
        failed=len(rows) - succeeded,
        cached=sum(CACHED_FROM in row.provenance for row in rows),
        seconds=round(seconds, 3),
        worker=worker,
        sha256=hashlib.sha256(body).hexdigest(),
    )
    return header, encode(header) + b"\n" + body


def committed_names(storage: S3Storage, job: JobId, start: int = 0, at_a_time: int = 1000) -> Iterator[CommitName]:
    """The commit records of the shards from `start` on, in order of shard and part; so many are listed at a time.

    A whole shard's record comes after those of its parts.
    """
    after = keys.before_commits(job, start) if start else ""
    return _names(job, storage.list(keys.commits(job), after, at_a_time))


def committed_shards(
    storage: S3Storage, job: JobId, start: int = 0, at_a_time: int = 1000
) -> Iterator[tuple[int, list[CommitName]]]:
    """Each shard from `start` on of which something is committed, with the records that count for it."""
    for shard, names in groupby(committed_names(storage, job, start, at_a_time), lambda name: name.shard):
        yield shard, standing(names)


def shard_names(storage: S3Storage, job: JobId, number: int) -> list[CommitName]:
    """The commit records that count for one shard."""
    return standing(_names(job, storage.list(keys.shard_commits(job, number))))


def standing(names: Iterable[CommitName]) -> list[CommitName]:
    """Of the records of one shard those that count: where there is one of the whole shard, that one alone.

    A worker of an earlier version may have done the whole shard while some of its parts were committed.
    """
    every = list(names)
    return [name for name in every if name.part is None] or every


def is_whole(headers: Collection[CommitHeader]) -> bool:
    """Whether these records, which count for one shard, are all that it has."""
    return any(header.part is None or len(headers) == header.parts for header in headers)


def committed(storage: S3Storage, job: JobId) -> CommittedTotals:
    """What all commit records add up to: the truth that Redis' counts are a copy of."""
    counts: Counter[str] = Counter()
    half_done: dict[int, HalfDone] = {}

    def counted() -> Iterator[int]:
        names = (name for _, found in committed_shards(storage, job) for name in found)
        headers = (header for header in read_ahead(lambda name: load_header(storage, job, *name), names) if header)
        for number, of_shard in groupby(headers, lambda header: header.shard):
            found = list(of_shard)
            of_this = {kind: sum(getattr(header, kind) for header in found) for kind in COUNTED}
            counts.update(of_this)
            if is_whole(found):
                yield number
            else:
                parts = sum(1 << header.part for header in found if header.part is not None)
                half_done[number] = HalfDone(parts, **of_this)

    shards = ShardSet.of(counted())
    return CommittedTotals(shards, counts["succeeded"], counts["failed"], counts["cached"], half_done)


def _names(job: JobId, listed: Iterable[ListedObject]) -> Iterator[CommitName]:
    return (name for entry in listed if (name := keys.commit_name(job, entry.key)) is not None)


def _load(
    storage: S3Storage, key: str, schema: type[M], told: Callable[[M], object] = lambda _: None, wanted: object = None
) -> M | None:
    try:
        return checked(decode(schema, key, storage.get(key)), key, told, wanted)
    except ObjectMissing:
        return None


def _header(job: JobId, name: CommitName, line: bytes) -> CommitHeader:
    key = keys.commit(job, *name)
    return checked(
        decode(CommitHeader, key, line),
        key,
        lambda header: (header.job or job.job, header.shard, header.part),
        (job.job, *name),
    )
