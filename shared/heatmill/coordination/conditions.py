"""Why work stands still: what workers that gave it back have said, for a while.

A worker that cannot do a job's work, or from which the store takes nothing, writes the reason beside the job. A worker
that ends because its machine can do no work writes it for all. Both pass by themselves, and what is done for a job
removes its own.
"""

import json
import time
from datetime import UTC, datetime

from heatmill.coordination.job_store import RedisJobStore, key
from heatmill.coordination.live_workers import live_workers
from heatmill.coordination.redis_errors import translated
from heatmill.schemas import Condition, ConditionType
from heatmill.storage.keys import JobId

UNFIT_WORKERS = "heatmill:unfit-workers"
# Longer than an unfit worker rests before it tries again.
CONDITION_SECONDS = 600
# What the last worker ended of is shown while there is none.
UNFIT_SECONDS = 86_400
# A job that goes on elsewhere meanwhile does not wait.
SHOWN_AFTER_SECONDS = 10.0


def note_condition(
    state: RedisJobStore, job: JobId, detail: str, kind: ConditionType = "waiting_for_worker", failures: int = 1
) -> int:
    """Remember why a worker gave a job's work back; it is the newest reason that counts, and the first time.

    Args:
        state: Redis.
        job: The job.
        detail: For people; names the worker.
        kind: For programs.
        failures: To be added to those that are counted.

    Returns:
        How many failures were counted since the job last went on.
    """
    name = key(job, "condition")
    with translated(), state.client.pipeline() as together:
        together.hincrby(name, "failures", failures)
        together.hsetnx(name, "since", str(time.time()))
        together.hset(name, mapping={"type": kind, "detail": detail})
        together.expire(name, CONDITION_SECONDS)
        return int(together.execute()[0])


def waits_for_storage(state: RedisJobStore, job: JobId) -> bool:
    """Whether the store took nothing of the job lately."""
    with translated():
        return state.client.hget(key(job, "condition"), "type") == "waiting_for_storage"


def clear_condition(state: RedisJobStore, job: JobId) -> None:
    """The job goes on."""
    with translated():
        state.client.delete(key(job, "condition"))


def read_condition(state: RedisJobStore, job: JobId) -> Condition | None:
    """Why an open job stands still, as far as workers have said it; None where it goes on, or nobody knows."""
    with translated():
        told = state.client.hgetall(key(job, "condition"))
    if not {"since", "detail", "type"} <= told.keys():
        return _nobody_fit(state)
    since = float(told["since"])
    if time.time() - since < SHOWN_AFTER_SECONDS:
        return None
    return Condition.model_validate({**told, "since": datetime.fromtimestamp(since, UTC)}, extra="ignore")


def note_unfit(state: RedisJobStore, worker: str, reason: str) -> None:
    """Remember that a worker ends, and why its machine can do no work."""
    with translated(), state.client.pipeline() as together:
        together.hset(UNFIT_WORKERS, worker, json.dumps([reason, time.time()]))
        together.expire(UNFIT_WORKERS, UNFIT_SECONDS)
        together.execute()


def unfit_workers(state: RedisJobStore) -> dict[str, str]:
    """Workers that have ended lately, and why."""
    with translated():
        told = state.client.hgetall(UNFIT_WORKERS)
    return {str(worker): str(json.loads(entry)[0]) for worker, entry in told.items()}


def note_fit(state: RedisJobStore, worker: str) -> None:
    """A worker does its work again."""
    with translated():
        state.client.hdel(UNFIT_WORKERS, worker)


def _nobody_fit(state: RedisJobStore) -> Condition | None:
    """That no worker lives, where the last ones said why."""
    with translated():
        told = state.client.hgetall(UNFIT_WORKERS)
    if not told or live_workers(state):
        return None
    reasons = {str(worker): json.loads(entry) for worker, entry in told.items()}
    worker, (reason, since) = max(reasons.items(), key=lambda entry: entry[1][1])
    detail = f"no worker is alive; the last to end, {worker}, said: {reason}"
    return Condition(type="waiting_for_worker", detail=detail, since=datetime.fromtimestamp(since, UTC))
