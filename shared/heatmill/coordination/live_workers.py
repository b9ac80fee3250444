"""Which explain workers live: each says so every few seconds, and is forgotten soon after it ceases to."""

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.redis_errors import milliseconds, translated
from heatmill.coordination.schedule import WORKERS

BEAT_SECONDS = 5.0
# Without a beat. More than two beats, so that a slow one does not count as a death.
LIFE_SECONDS = 15.0


def beat(state: RedisJobStore, worker: str) -> None:
    """Say that a worker lives.

    Args:
        state: Redis.
        worker: The same after it was started again.
    """
    state.schedule.note_worker(worker, LIFE_SECONDS)


def leave(state: RedisJobStore, worker: str) -> None:
    """Say that a worker ends."""
    with translated():
        state.client.zrem(WORKERS, worker)


def live_workers(state: RedisJobStore) -> frozenset[str]:
    """The workers that live."""
    with translated():
        now: tuple[int, int] = state.client.time()
        seconds, microseconds = now
        found = state.client.zrangebyscore(WORKERS, f"({milliseconds(seconds + microseconds / 1e6)}", "+inf")
    return frozenset(str(worker) for worker in found)


def others_live(state: RedisJobStore, worker: str) -> bool:
    """Whether a worker beside this one lives."""
    return bool(live_workers(state) - {worker})
