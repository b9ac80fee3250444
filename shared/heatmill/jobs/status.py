"""How far a job is: computed from its counts by one pure function, whoever asks."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from heatmill.coordination.conditions import read_condition
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.progress import JobProgress
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.errors import QueueUnavailable, RecordDamaged
from heatmill.jobs import records
from heatmill.schemas import AcceptedJob, Condition, Counts, Job, JobState, MapRequest, MapStatus, Plan
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

NOTHING = CommittedTotals()


def derive_state(counts: Counts, *, started: bool) -> JobState:
    """The state that follows from the counts.

    Args:
        counts: Of the job's results. A job whose total is known and reached is terminal.
        started: A worker has taken a shard.
    """
    if counts.total is None or counts.done < counts.total:
        return "running" if started or counts.done else "queued"
    if counts.cancelled:
        return "cancelled"
    if counts.failed == 0 and counts.succeeded:
        return "succeeded"
    return "partly_failed" if counts.succeeded else "failed"


def load_job(storage: S3Storage, state: RedisJobStore, job: JobId) -> Job:
    """The job as it is now: from Redis while it is open, from storage when it is terminal or Redis does not know.

    Raises:
        JobNotFound: There is no such job.
        RecordDamaged: A record that says so is damaged or missing.
    """
    try:
        progress = state.progress(job)
    except QueueUnavailable:
        progress = None
    if progress is not None:
        return job_from_progress(job, progress).model_copy(update={"condition": _condition(state, job)})
    return records.load_final(storage, job) or _forgotten(storage, job)


def _condition(state: RedisJobStore, job: JobId) -> Condition | None:
    try:
        return read_condition(state, job)
    except QueueUnavailable:
        return None


def _forgotten(storage: S3Storage, job: JobId) -> Job:
    """A job that Redis does not know, and that had no end when that was looked for."""
    found = job_from_progress(job, stored_progress(storage, job))
    if storage.exists(keys.open_marker(job)):
        return found
    final = records.load_final(storage, job)
    if final is None:
        raise RecordDamaged(keys.final(job), "it is missing")
    return final


def stored_progress(storage: S3Storage, job: JobId) -> JobProgress:
    """What Redis would say of an open job, from its durable records.

    Raises:
        JobNotFound: There is no such job.
    """
    accepted = records.load_request(storage, job)
    found = progress_from_records(accepted, _plan(storage, job), records.committed(storage, job))
    return replace(found, cancelled=storage.exists(keys.cancelled(job)))


def _plan(storage: S3Storage, job: JobId) -> Plan | None:
    """The plan; one that is damaged is made again."""
    try:
        return records.load_plan(storage, job)
    except RecordDamaged:
        return None


def progress_from_records(
    accepted: AcceptedJob, plan: Plan | None = None, committed: CommittedTotals = NOTHING
) -> JobProgress:
    """What these records say of a job, on which nobody is at work."""
    return JobProgress(
        counts=Counts(
            total=plan.results if plan else None,
            succeeded=committed.succeeded,
            failed=committed.failed,
            cached=committed.cached,
        ),
        items=plan.items if plan else None,
        shards=plan.shards if plan else None,
        committed=len(committed.shards),
        working=0,
        cancelled=False,
        started_at=None,
        summary=summary(accepted),
        makes_map=plan is not None and plan.makes_map,
        map_error=plan.map_error if plan else None,
    )


def summary(accepted: AcceptedJob) -> dict[str, Any]:
    """What a status tells beside the counts: the fields of `Job` that never change."""
    return {
        "created_at": accepted.created_at.isoformat(),
        "model": accepted.request.model,
        "methods": [method.model_dump() for method in accepted.request.methods],
        "map": None if accepted.request.map is None else accepted.request.map.model_dump(),
        "priority": accepted.priority,
        "metadata": accepted.request.metadata,
        "request_id": accepted.request_id,
    }


def map_status(storage: S3Storage, job: JobId, asked: MapRequest | None, *, cancelled: bool) -> MapStatus | None:
    """What became of the map of a job that is complete; None where none was asked for."""
    if asked is None:
        return None
    plan = records.load_plan(storage, job)
    made = records.load_map(storage, job)
    error = (made and made.error) or (plan and (plan.map_error or plan.error)) or None
    if made is not None and error is None:
        return MapStatus(**asked.model_dump(), state="ready")
    return MapStatus(**asked.model_dump(), state="cancelled" if cancelled and error is None else "failed", error=error)


def job_from_progress(job: JobId, progress: JobProgress) -> Job:
    """A job that is not terminal, also when all its shards are committed and only `finish` is missing."""
    counts = progress.counts
    # A worker of an earlier version that does a half-done shard as a whole counts some of it twice.
    left = max((counts.total or 0) - counts.done, 0)
    started = progress.started_at
    state = derive_state(counts, started=started is not None)
    rate = _rate(counts, started)
    return Job(
        id=job.job,
        state=state if state in ("queued", "running") else "running",
        done=False,
        progress=(counts.total - left) / counts.total if counts.total else 0.0,
        counts=counts,
        started_at=None if started is None else datetime.fromtimestamp(started, UTC),
        items_per_second=round(rate * progress.items / counts.total, 3)
        if rate and progress.items and counts.total
        else None,
        eta_seconds=round(left / rate, 1) if rate and counts.total else None,
        **progress.summary | _known_map(progress),
    )


def _known_map(progress: JobProgress) -> dict[str, Any]:
    """The status of a map that the plan has ruled out."""
    if progress.map_error is None:
        return {}
    return {"map": {**progress.summary["map"], "state": "failed", "error": progress.map_error}}


def _rate(counts: Counts, started_at: float | None) -> float | None:
    """Results per second since the first claim."""
    if started_at is None or not counts.done:
        return None
    return counts.done / max(datetime.now(UTC).timestamp() - started_at, 1e-3)
