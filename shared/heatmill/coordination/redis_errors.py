"""What Redis says when it does not do what was asked, turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from heatmill.errors import QueueFull, QueueUnavailable

# In the answer when `maxmemory` is reached; redis-py takes the code before it off, and of a script more stands there.
OUT_OF_MEMORY = "command not allowed when used memory"


@contextmanager
def translated(*others: type[Exception]) -> Iterator[None]:
    """Turn redis-py's errors into ours, and others that mean the same."""
    kinds: tuple[type[Exception], ...] = (redis.RedisError, *others)
    try:
        yield
    except kinds as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> QueueUnavailable:
    """What an error of redis-py, or of kombu, means."""
    if OUT_OF_MEMORY in str(error):
        return QueueFull("Redis is full: it has reached its `maxmemory` and takes nothing more")
    return QueueUnavailable(f"Redis does not answer: {error}")


def milliseconds(seconds: float) -> int:
    """Redis' unit of time."""
    return round(seconds * 1000)
