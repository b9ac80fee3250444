"""How fast a model is on each type of device, as workers measured it."""

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.redis_errors import translated

# A type of device on which nothing was measured for so long is taken for one that is gone.
KEPT_SECONDS = 86_400
# One value per model, whatever the device, as earlier versions kept it.
OUTDATED = "heatmill:pace"


def slowest_seconds_per_pass(state: RedisJobStore, model: str) -> float | None:
    """Seconds per forward pass of one image on the slowest type of device that was measured lately; None for no such.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated(), state.client.pipeline(transaction=False) as together:
        together.hvals(_key(model))
        together.time()
        values, (now, _) = together.execute()
    measured = (str(value).split(" ") for value in values)
    return max((float(seconds) for seconds, when in measured if int(when) > now - KEPT_SECONDS), default=None)


def record_throughput(state: RedisJobStore, model: str, device: str, seconds_per_pass: float) -> None:
    """Remember how fast a model is on a type of device, such as `cuda`.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated():
        now, _ = state.client.time()
        with state.client.pipeline(transaction=False) as together:
            together.hset(_key(model), device, f"{seconds_per_pass} {now}")
            together.expire(_key(model), KEPT_SECONDS)
            together.delete(OUTDATED)
            together.execute()


def lower_throughput(state: RedisJobStore, model: str, device: str, seconds_per_pass: float, assumed: float) -> None:
    """Remember it if the model is faster than is known of this device, or than is assumed where nothing is known.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated():
        known = state.client.hget(_key(model), device)
    if seconds_per_pass < (assumed if known is None else float(str(known).split(" ")[0])):
        record_throughput(state, model, device, seconds_per_pass)


def _key(model: str) -> str:
    return f"heatmill:pace:{model}"
