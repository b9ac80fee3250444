"""Kombu's Redis transport, which drops what is no message of ours; by itself, that ends the worker which takes it.

Whoever reaches Redis can push anything on to a queue. Nothing is lost: where it was a shard's own, damaged, that is
sent again.
"""

import base64
import json
from queue import Empty
from typing import Annotated, Any, Literal

import redis
import structlog
from kombu.transport import redis as kombu_redis
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from heatmill.coordination.task_queue import CONTROL_QUEUE, EXPLAIN_QUEUE

EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

log = structlog.get_logger()


class _Part(BaseModel):
    """What Celery adds besides is left out."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Headers(_Part):
    """A task that runs as soon as it is taken."""

    id: str
    task: str
    eta: None = None
    expires: None = None
    compression: None = None


class Properties(_Part):
    """What kombu adds."""

    delivery_tag: str
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
    """A message as the dispatcher sends it: ids, no named arguments, and no callbacks."""

    body: Annotated[
        tuple[list[str | int], Annotated[dict[str, None], Field(max_length=0)], dict[str, None]],
        BeforeValidator(_decoded),
        Field(strict=False),
    ]
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: Headers
    properties: Properties


def as_sent(message: Any, queue: str) -> dict[str, Any]:
    """What the dispatcher has sent, and nothing else: Celery acts on dozens of headers, and believes each.

    Args:
        message: As it lay in Redis.
        queue: Where it lay, and where it goes back to when nobody acknowledges it.

    Raises:
        ValueError: The dispatcher sends no such message.
    """
    sent = Envelope.model_validate(message)
    body = json.dumps([sent.body[0], {}, EMBEDDED]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": sent.content_type,
        "content-encoding": sent.content_encoding,
        "headers": {"lang": "py", "id": sent.headers.id, "task": sent.headers.task},
        "properties": {
            **sent.properties.model_dump(),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }


class Channel(kombu_redis.Channel):
    """Takes what can be read."""

    def _brpop_read(self, **options: Any) -> Any:
        transport: Transport = self.connection
        transport.has_read = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, OSError, redis.RedisError):
            raise
        except Exception as error:
            if transport.has_read:
                # The worker's own trouble.
                raise
            # Neither JSON, nor text, nor ours: it has left its list, and nothing has noted it as taken.
            log.exception("a message that cannot be read is dropped")
            raise Empty from error


class Transport(kombu_redis.Transport):
    """With that channel.

    Attributes:
        has_read: Whether what was taken last was a message, and the worker's to deal with.
    """

    Channel = Channel
    has_read = False

    def _deliver(self, message: Any, queue: str) -> None:
        # What workers say to each other comes by other ways.
        ours = as_sent(message, queue) if queue in (EXPLAIN_QUEUE, CONTROL_QUEUE) else message
        self.has_read = True
        super()._deliver(ours, queue)  # type: ignore[no-untyped-call]
