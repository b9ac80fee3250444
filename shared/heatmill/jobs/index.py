"""A tenant's jobs, newest first. Job ids have no order, so Redis keeps one; it is a cache, rebuilt from the store.

An entry is `<created_at in microseconds, 17 digits>:<job>`: entries sort by time, and an entry is where a next page
starts. Redis keeps the newest `CACHED` of a tenant. From the entry on that the key `floor` names the list is complete;
what is older is read from the store, and so is everything after Redis was wiped, once.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import lru_cache
from itertools import islice, takewhile

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.redis_errors import translated
from heatmill.errors import JobNotFound, QueueUnavailable, RecordDamaged
from heatmill.jobs import records
from heatmill.schemas import AcceptedJob
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

READERS = 16
PAGE = 100
PART = 1000
# Entries of a tenant in Redis, a tenth more before it is trimmed: 100 bytes each.
CACHED = 10_000
# The floor of a list that holds all jobs: less than every entry.
NOTHING_OLDER = "0"
# Lists of older jobs in one process; each is read again when the floor has risen, a thousand jobs later.
OLDER_LISTS = 4


def add(state: RedisJobStore, accepted: AcceptedJob) -> None:
    """Note a job; again changes nothing.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated():
        state.client.zadd(_entries(accepted.tenant), {entry(accepted): 0})
    state.schedule.trim_jobs(_entries(accepted.tenant), _floor(accepted.tenant), CACHED)


def remove(state: RedisJobStore, accepted: AcceptedJob) -> None:
    """Forget a job; a list that still names it passes over it.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated():
        state.client.zrem(_entries(accepted.tenant), entry(accepted))


def newest_first(storage: S3Storage, state: RedisJobStore, tenant: str, before: str = "") -> Iterator[str]:
    """The tenant's entries, from the newest or from the one before `before`.

    Raises:
        StorageUnavailable: The entries have to be rebuilt and the store does not answer.
    """
    try:
        floor = _complete(storage, state, tenant)
        for text in takewhile(floor.__le__, _cached(state, tenant, before)):
            yield text
            before = text
        if floor != NOTHING_OLDER:
            yield from (text for text in _older(storage, tenant, floor) if not before or text < before)
    except QueueUnavailable:
        # Goes on where Redis fell silent: the entries are the same wherever they are read.
        yield from _stored(storage, tenant, before)


def entry(accepted: AcceptedJob) -> str:
    """The entry of a job."""
    return _entry(accepted.created_at, accepted.id)


def job_of(text: str) -> str:
    """The job id in an entry."""
    return text.partition(":")[2]


def _cached(state: RedisJobStore, tenant: str, before: str) -> Iterator[str]:
    while True:
        with translated():
            found = state.client.zrevrangebylex(
                _entries(tenant), f"({before}" if before else "+", "-", start=0, num=PAGE
            )
        yield from map(str, found)
        if len(found) < PAGE:
            return
        before = str(found[-1])


def _complete(storage: S3Storage, state: RedisJobStore, tenant: str) -> str:
    """The entry from which on Redis has all; what a wiped Redis has forgotten is rebuilt."""
    with translated():
        if (floor := state.client.get(_floor(tenant))) is not None:
            return str(floor)
    found = sorted(_read_entries(storage, tenant))
    newest = found[-CACHED:]
    floor = newest[0] if len(found) > CACHED else NOTHING_OLDER
    with translated():
        # All or nothing: a floor without the entries would hide jobs for good.
        pipeline = state.client.pipeline(transaction=True)
        if newest:
            pipeline.zadd(_entries(tenant), dict.fromkeys(newest, 0))
        pipeline.set(_floor(tenant), floor)
        # As an earlier version named it.
        pipeline.delete(f"{_entries(tenant)}:complete")
        pipeline.execute()
    return floor


@lru_cache(OLDER_LISTS)
def _older(storage: S3Storage, tenant: str, floor: str) -> tuple[str, ...]:
    """The entries below a floor, newest first: no job begins there any more."""
    return tuple(sorted((text for text in _read_entries(storage, tenant) if text < floor), reverse=True))


def _stored(storage: S3Storage, tenant: str, before: str) -> Iterator[str]:
    found = sorted(_read_entries(storage, tenant), reverse=True)
    return (text for text in found if not before or text < before)


def _read_entries(storage: S3Storage, tenant: str) -> list[str]:
    def read(job: str) -> list[str]:
        try:
            return [_entry(records.load_created_at(storage, JobId(tenant, job)), job)]
        except JobNotFound:
            return []
        except RecordDamaged:
            written = next(storage.list(keys.request(JobId(tenant, job))), None)
            return [] if written is None else [_entry(written.modified, job)]

    with ThreadPoolExecutor(READERS) as pool:
        jobs = storage.folders(f"{tenant}/jobs/")
        # Part by part, since a pool would take all of a long list at once.
        parts = iter(lambda: list(islice(jobs, PART)), [])
        return [text for part in parts for texts in pool.map(read, part) for text in texts]


def _entry(created_at: datetime, job: str) -> str:
    return f"{int(created_at.timestamp() * 1e6):017}:{job}"


def _entries(tenant: str) -> str:
    return f"heatmill:{{{tenant}}}:jobs"


def _floor(tenant: str) -> str:
    return f"{_entries(tenant)}:floor"
