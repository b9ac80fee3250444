"""One message of a kind at a time: whoever would ring a bell that rings already need not."""

import redis

from heatmill.coordination.redis_errors import milliseconds, translated
from heatmill.storage.keys import JobId

PREFIX = "heatmill:rung:"
# A message that is lost is missed for so long.
SECONDS = 30.0


class Rings:
    """Which messages were sent and not yet taken.

    Every method raises `QueueUnavailable` when Redis does not answer.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def is_first(self, task: str, job: JobId | None = None) -> bool:
        """Whether no message of a task, about a job where it is about one, is under way; from now on one is."""
        with translated():
            return bool(self._client.set(_key(task, job), 1, nx=True, px=milliseconds(SECONDS)))

    def taken(self, task: str, job: JobId | None = None) -> None:
        """Note that the message was taken: the next one is sent, also while the task runs."""
        with translated():
            self._client.delete(_key(task, job))


def _key(task: str, job: JobId | None) -> str:
    return f"{PREFIX}{task}" if job is None else f"{PREFIX}{task}:{job}"
