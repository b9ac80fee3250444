"""How long a worker rests that was started again after its machine could do no work, and what it lacks."""

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.redis_errors import translated

FIRST_REST_SECONDS = 5.0
LONGEST_REST_SECONDS = 60.0
# Of the count of ends: a machine that was well for so long begins anew.
COUNT_SECONDS = 900
# How long a worker that was started again for want of a model or its weights goes on without ending for it again.
LACK_SECONDS = 3600


def count_end(state: RedisJobStore, worker: str) -> None:
    """Count an end of a worker whose machine can do no work."""
    name = _ends(worker)
    with translated(), state.client.pipeline() as together:
        together.incr(name)
        together.expire(name, COUNT_SECONDS)
        together.execute()


def rest_seconds(state: RedisJobStore, worker: str) -> float:
    """How long a worker rests before it takes anything: nothing, 5 s, 10 s, up to a minute."""
    with translated():
        ends = int(state.client.get(_ends(worker)) or 0)
    # Above so many, the power would be a very large number.
    return min(FIRST_REST_SECONDS * 2.0 ** min(ends - 1, 10), LONGEST_REST_SECONDS) if ends else 0.0


def end_rests(state: RedisJobStore, worker: str) -> None:
    """The worker has done work."""
    with translated():
        state.client.delete(_ends(worker))


def is_first_lack(state: RedisJobStore, worker: str, what: str) -> bool:
    """Whether a worker has not ended lately because it lacked this. It is to end now: a start reads the files again.

    Args:
        state: Redis.
        worker: The same after it was started again.
        what: A model or a method, by name.
    """
    with translated():
        return bool(state.client.set(f"heatmill:lack:{worker}:{what}", 1, nx=True, ex=LACK_SECONDS))


def _ends(worker: str) -> str:
    return f"heatmill:ends:{worker}"
