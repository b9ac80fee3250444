"""Kombu's Redis transport, which drops what is no message of ours; by itself, that ends the worker which takes it.

Whoever reaches Redis can push anything on to a queue. Nothing is lost: where it was a shard's own, damaged, that is
sent again.
"""

import base64
import json
from queue import Empty
from typing import Annotated, Any, Literal

import structlog
from kombu.transport import redis
from kombu.transport.virtual.base import Message as KombuMessage
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

log = structlog.get_logger()


class _Part(BaseModel):
    """What Celery adds besides is its own affair."""

    model_config = ConfigDict(strict=True, extra="allow")


class Headers(_Part):
    """A task that runs as soon as it is taken."""

    id: str
    task: str
    eta: None = None
    expires: None = None
    compression: None = None


class DeliveryInfo(_Part):
    """Where a message that nobody acknowledged goes back to."""

    exchange: str
    routing_key: str


class Properties(_Part):
    """What kombu adds."""

    delivery_tag: str
    delivery_info: DeliveryInfo
    body_encoding: Literal["base64"]
    priority: int = 0


def _decoded(body: object) -> object:
    """Of a body in base64.

    Raises:
        ValueError: It is none, or holds no JSON.
    """
    try:
        return json.loads(base64.b64decode(str(body), validate=True))
    except RecursionError as error:
        raise ValueError("too deep") from error


class Envelope(_Part):
    """A message as the dispatcher sends it: arguments, named arguments, and no callbacks."""

    body: Annotated[tuple[list[Any], dict[str, Any], dict[str, None]], BeforeValidator(_decoded), Field(strict=False)]
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: Headers
    properties: Properties


class Message(KombuMessage):
    """A message as kombu writes it.

    Raises:
        ValueError: It is something else.
    """

    def __init__(self, payload: Any, **arguments: Any) -> None:
        try:
            # Messages between workers have none.
            if "task" in payload["headers"]:
                Envelope.model_validate(payload)
            super().__init__(payload, **arguments)  # type: ignore[no-untyped-call]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no message of kombu's: {error!r}") from error


class Channel(redis.Channel):
    """Takes what can be read."""

    Message = Message  # type: ignore[assignment]

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ValueError as error:
            # Neither JSON, nor text, nor ours: it has left its list, and nothing has noted it as taken.
            log.exception("a message that cannot be read is dropped")
            raise Empty from error


class Transport(redis.Transport):
    """With that channel."""

    Channel = Channel
