"""Which explain workers live: each says so every few seconds, and is forgotten soon after it ceases to."""

from heatmill.coordination.redis_errors import translated
from heatmill.state import RedisJobStore

LIVE_WORKERS = "heatmill:live-workers"
BEAT_SECONDS = 5.0
# Without a beat. More than two beats, so that a slow one does not count as a death.
LIFE_SECONDS = 15.0


def beat(state: RedisJobStore, worker: str) -> None:
    """Say that a worker lives.

    Args:
        state: Redis.
        worker: The same after it was started again.
    """
    now = _now(state)
    with translated(), state.client.pipeline() as together:
        together.zadd(LIVE_WORKERS, {worker: now + LIFE_SECONDS})
        together.zremrangebyscore(LIVE_WORKERS, "-inf", now)
        together.expire(LIVE_WORKERS, round(2 * LIFE_SECONDS))
        together.execute()


def leave(state: RedisJobStore, worker: str) -> None:
    """Say that a worker ends."""
    with translated():
        state.client.zrem(LIVE_WORKERS, worker)


def live_workers(state: RedisJobStore) -> frozenset[str]:
    """The workers that live."""
    now = _now(state)
    with translated():
        found = state.client.zrangebyscore(LIVE_WORKERS, f"({now}", "+inf")
    return frozenset(str(worker) for worker in found)


def others_live(state: RedisJobStore, worker: str) -> bool:
    """Whether a worker beside this one lives."""
    return bool(live_workers(state) - {worker})


def _now(state: RedisJobStore) -> float:
    """Seconds since 1970 by Redis' clock: machines need not agree on the time."""
    with translated():
        answer: tuple[int, int] = state.client.time()
    seconds, microseconds = answer
    return seconds + microseconds / 1e6
