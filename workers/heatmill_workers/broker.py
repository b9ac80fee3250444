"""Kombu's Redis transport, which drops a message that nobody can read; by itself it ends the worker that takes it.

Whoever reaches Redis can push anything on to a queue. Nothing is lost: where it was
a shard's own, damaged, that is sent again.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis
from kombu.transport.virtual.base import Message as KombuMessage

log = structlog.get_logger()


class Message(KombuMessage):
    """A message as kombu writes it.

    Raises:
        ValueError: It is something else.
    """

    def __init__(self, payload: Any, **arguments: Any) -> None:
        try:
            super().__init__(payload, **arguments)  # type: ignore[no-untyped-call]
            # Celery looks the task up; messages between workers have none.
            hash((self.headers or {}).get("task"))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no message of kombu's: {error!r}") from error


class Channel(redis.Channel):
    """Takes what can be read."""

    Message = Message  # type: ignore[assignment]

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ValueError as error:
            # Neither JSON, nor text, nor kombu's: it has left its list, and nothing has noted it as taken.
            log.exception("a message that cannot be read is dropped")
            raise Empty from error


class Transport(redis.Transport):
    """With that channel."""

    Channel = Channel
