"""What a run left behind, in the store and in Redis: plain data, so that the checker needs neither."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from heatmill.coordination.job_store import RedisJobStore
from heatmill.errors import JobDeleted, JobNotFound
from heatmill.jobs import records
from heatmill.schemas import CommitHeader, Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import CommitName, JobId
from tests.faults.chaos.log import AnyEvent

READERS = 8
TENANTS = ("a", "b")


@dataclass(frozen=True)
class Result:
    """A row.

    Attributes:
        picture: sha256 of the heatmap and of the attribution, of what succeeded.
        error: Code, of what failed.
    """

    item: str
    method: str
    rank: int
    target: int | None = None
    picture: tuple[str, str] | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """As readers see it."""
        return f"{self.item} {self.method} {self.rank}"


@dataclass(frozen=True)
class Record:
    """A commit record, of a part of a shard.

    Attributes:
        written: Seconds since the epoch; stores tell whole seconds.
        is_sound: Its checksum and its counts fit its rows.
    """

    shard: int
    written: float
    results: tuple[Result, ...]
    is_sound: bool = True


@dataclass(frozen=True)
class StoredJob:
    """What the store holds of a job.

    Attributes:
        state: Of the terminal job; None for one that is not.
        shards: Of the plan.
        counts: Total, succeeded, failed and cancelled of the terminal job.
        objects: How many are left.
    """

    state: str | None = None
    is_deleted: bool = False
    shards: int = 0
    counts: tuple[int, int, int, int] = (0, 0, 0, 0)
    records: tuple[Record, ...] = ()
    objects: int = 0

    @property
    def results(self) -> tuple[Result, ...]:
        """All rows."""
        return tuple(result for record in self.records for result in record.results)


Reference = Mapping[tuple[str, int], Result]
"""Photo and rank -> what a run without faults gave."""


@dataclass(frozen=True)
class Evidence:
    """Everything the checker goes by.

    Attributes:
        events: The history.
        jobs: Of the run, by `<tenant>/<job>`.
        by_key: Tenant and Idempotency-Key -> the job that they stand for.
        markers: Of jobs under `open/` and `trash/`.
        memory: What Redis still knows of single jobs, for good.
        attempts: The most that a shard of each job was seen to take.
        healed_seconds: From the end of the last fault until nothing was left to do; None where that took too long.
    """

    events: tuple[AnyEvent, ...]
    jobs: Mapping[str, StoredJob]
    reference: Reference
    by_key: Mapping[tuple[str, str], str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)
    healed_seconds: float | None = 0.0


def stored_jobs(storage: S3Storage, known: Iterable[str] = ()) -> dict[str, StoredJob]:
    """All jobs but those that are known from before."""
    return {name: stored_job(storage, JobId.parse(name)) for name in job_names(storage) if name not in frozenset(known)}


def job_names(storage: S3Storage) -> list[str]:
    """All jobs of which anything is stored."""
    return [f"{tenant}/{job}" for tenant in TENANTS for job in storage.folders(f"{tenant}/jobs/")]


def stored_job(storage: S3Storage, job: JobId) -> StoredJob:
    """What is stored of a job."""
    entries = list(storage.list(job.prefix))
    try:
        records.load_request(storage, job)
    except JobDeleted:
        return StoredJob(is_deleted=True, objects=len(entries))
    except JobNotFound:
        return StoredJob(objects=len(entries))
    final, plan = records.load_final(storage, job), records.load_plan(storage, job)
    counts = final.counts if final else None
    commits = [entry for entry in entries if entry.key.startswith(keys.commits(job)) and entry.key.endswith(".jsonl")]
    return StoredJob(
        state=final.state if final else None,
        shards=plan.shards if plan else 0,
        counts=(counts.total or 0, counts.succeeded, counts.failed, counts.cancelled) if counts else (0, 0, 0, 0),
        records=tuple(
            _record(storage, job, name, entry.modified.timestamp())
            for entry in commits
            if (name := keys.commit_name(job, entry.key))
        ),
        objects=len(entries),
    )


def markers(storage: S3Storage) -> Iterator[str]:
    """Jobs that are marked as open or as trash."""
    for prefix in (keys.OPEN_PREFIX, keys.TRASH_PREFIX):
        yield from (entry.key for entry in storage.list(prefix))


def memory(state: RedisJobStore) -> Iterator[str]:
    """Keys of single jobs that Redis would keep for ever: a late worker's notes have an end."""
    for name in state.client.scan_iter("heatmill:{*/*}:*"):
        if state.client.ttl(name) == -1:
            yield str(name)
    yield from (f"open: {job}" for job in state.open_jobs())


def _record(storage: S3Storage, job: JobId, name: CommitName, written: float) -> Record:
    head, _, body = storage.get(keys.commit(job, *name)).partition(b"\n")
    header = CommitHeader.model_validate_json(head, extra="ignore")
    rows = list(records.load_commit(storage, job, *name)[1])
    with ThreadPoolExecutor(READERS) as pool:
        results = tuple(pool.map(lambda row: _result(storage, row), rows))
    failed = sum(result.error is not None for result in results)
    is_sound = header.sha256 == hashlib.sha256(body).hexdigest()
    return Record(
        name.shard, written, results, is_sound and (header.succeeded, header.failed) == (len(rows) - failed, failed)
    )


def _result(storage: S3Storage, row: Row) -> Result:
    picture = None
    if row.heatmap is not None and row.attribution is not None:
        picture = tuple(hashlib.sha256(storage.get(key)).hexdigest() for key in (row.heatmap.key, row.attribution.key))
    return Result(
        item=row.item,
        method=row.method,
        rank=row.rank,
        target=row.target.index if row.target else None,
        picture=(picture[0], picture[1]) if picture else None,
        error=row.error.type.rsplit("/", 1)[1] if row.error else None,
    )
