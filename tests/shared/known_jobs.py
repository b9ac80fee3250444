"""A job that Redis knows, and what it says of it."""

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.schemas import CommitHeader, MethodRequest, Plan
from heatmill.storage.keys import JobId

JOB = JobId("tenant", "job")
OTHER = JobId("tenant", "other")
LONG = 60.0
SHORT = 0.2
SUMMARY = {"model": "m"}


def plan(shards: int) -> Plan:
    return Plan(shards=shards, items=shards, results=shards, model="m", methods=(MethodRequest(name="x"),), top_k=1)


def known(state: RedisJobStore, shards: int = 3, committed: CommittedTotals | None = None) -> None:
    state.register(JOB, SUMMARY, plan(shards), committed or CommittedTotals())


def told(shard: int, succeeded: int, failed: int, cached: int = 0, **part: int) -> CommitHeader:
    """What a commit record says first: of a whole shard, or of one `part` of `parts`."""
    counted = {"succeeded": succeeded, "failed": failed, "cached": cached}
    return CommitHeader(shard=shard, **counted, **part, seconds=1.0, worker="w", sha256="0" * 64)


def counts(state: RedisJobStore) -> tuple[int, int, int]:
    """Committed shards, succeeded and failed results."""
    progress = state.progress(JOB)
    assert progress is not None
    return progress.committed, progress.counts.succeeded, progress.counts.failed


def outstanding(state: RedisJobStore, job: JobId = JOB) -> int:
    """Shards that were sent or are at work."""
    progress = state.progress(job)
    assert progress is not None
    return progress.outstanding


def taken(state: RedisJobStore) -> list[int]:
    """All that can be sent now."""
    return list(iter(lambda: state.take_next_shard(JOB, LONG), None))


def working(state: RedisJobStore) -> int:
    progress = state.progress(JOB)
    assert progress is not None
    return progress.working
