"""What Redis says when it does not do what was asked, turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from heatmill.errors import QueueFull, QueueUnavailable

# How Redis begins the answer when `maxmemory` is reached; inside a script something stands before it.
OUT_OF_MEMORY = "OOM command not allowed"


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours."""
    try:
        yield
    except redis.RedisError as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> QueueUnavailable:
    """What an error of redis-py, or of kombu, means."""
    if OUT_OF_MEMORY in str(error):
        return QueueFull("Redis is full: it has reached its `maxmemory` and takes nothing more")
    return QueueUnavailable(f"Redis does not answer: {error}")


def milliseconds(seconds: float) -> int:
    """Redis' unit of time."""
    return round(seconds * 1000)
