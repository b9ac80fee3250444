"""When a worker gives a shard back before it is done: it has had its time, or is asked to stop."""

import time
from collections.abc import Callable

# Of the time limit: what is left is for the part at work.
SHARE_OF_LIMIT = 2 / 3
# How long a worker that is asked to stop goes on with the part at work. A part is planned to take two seconds.
STOP_SECONDS = 20.0


class TimeBudget:
    """The time for one attempt at a shard. It starts now.

    Args:
        limit_seconds: The time limit.
        is_stopping: Whether the worker is asked to stop.
        now: A clock, in seconds.
    """

    def __init__(
        self, limit_seconds: float, is_stopping: Callable[[], bool], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now, self._is_stopping = now, is_stopping
        self._deadline = now() + SHARE_OF_LIMIT * limit_seconds
        self.parts_done = 0
        self._is_in_part = False
        self._stop_deadline: float | None = None

    def reason_to_pause(self, *, begins_part: bool) -> str | None:
        """Why the next group of items is not to be explained now; None where it is.

        A part that has begun is finished, and a first one is begun however late it is: else a slow machine would never
        get on. A worker that stops has less patience.
        """
        self.parts_done += begins_part and self._is_in_part
        self._is_in_part = True
        return self._stop_reason(begins_part) or self._deadline_reason(begins_part)

    def _stop_reason(self, begins_part: bool) -> str | None:
        if not self._is_stopping():
            return None
        if self._stop_deadline is None:
            self._stop_deadline = self._now() + STOP_SECONDS
        return "the worker stops" if begins_part or self._now() > self._stop_deadline else None

    def _deadline_reason(self, begins_part: bool) -> str | None:
        is_late = begins_part and self.parts_done > 0 and self._now() > self._deadline
        return "it takes longer here than a shard should" if is_late else None
