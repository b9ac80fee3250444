"""Why work stands still: what workers that gave shards back have said, for a while.

A worker that cannot do a job's work writes the reason beside the job, and a worker that ends because its machine can do
no work writes it for all. Both pass by themselves, and what is done for a job removes its own.
"""

import json
import time
from dataclasses import dataclass

from heatmill.coordination.live_workers import live_workers
from heatmill.coordination.redis_errors import translated
from heatmill.keys import JobId
from heatmill.state import RedisJobStore, key

WAITING_FOR_WORKER = "waiting_for_worker"
UNFIT_WORKERS = "heatmill:unfit-workers"
# Longer than an unfit worker rests before it tries again.
CONDITION_SECONDS = 600
# What the last worker ended of is shown while there is none.
UNFIT_SECONDS = 86_400
# A job that goes on elsewhere meanwhile does not wait.
SHOWN_AFTER_SECONDS = 10.0


@dataclass(frozen=True)
class Condition:
    """Why a job stands still.

    Args:
        type: Stable, for programs.
        detail: For people; names the worker.
        since: When that began, in seconds since 1970.
    """

    type: str
    detail: str
    since: float


def note_condition(state: RedisJobStore, job: JobId, detail: str) -> None:
    """Remember why a worker gave a job's work back; it is the newest reason that counts, and the first time."""
    name = key(job, "condition")
    with translated(), state.client.pipeline() as together:
        together.hsetnx(name, "since", str(time.time()))
        together.hset(name, "detail", detail)
        together.expire(name, CONDITION_SECONDS)
        together.execute()


def clear_condition(state: RedisJobStore, job: JobId) -> None:
    """The job goes on."""
    with translated():
        state.client.delete(key(job, "condition"))


def read_condition(state: RedisJobStore, job: JobId) -> Condition | None:
    """Why an open job stands still, as far as workers have said it; None where it goes on, or nobody knows."""
    with translated():
        told = state.client.hgetall(key(job, "condition"))
    if not {"since", "detail"} <= told.keys():
        return _nobody_fit(state)
    since = float(told["since"])
    if time.time() - since < SHOWN_AFTER_SECONDS:
        return None
    return Condition(WAITING_FOR_WORKER, str(told["detail"]), since)


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
    return Condition(WAITING_FOR_WORKER, f"no worker is alive; the last to end, {worker}, said: {reason}", since)
