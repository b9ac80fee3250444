"""Single flight with one pending run: calls during a run share the next run."""

from collections.abc import Callable
from threading import Lock


class SingleFlight:
    """A function for any number of callers at once: one runs it, one waits to run it next, the others are done.

    Args:
        run: Sees the world as it is when it begins.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._running = Lock()
        self._waiting = Lock()

    def __call__(self) -> None:
        """Run, unless somebody waits already, who begins later than this call."""
        if not self._waiting.acquire(blocking=False):
            return
        try:
            self._running.acquire()
        finally:
            self._waiting.release()
        try:
            self._run()
        finally:
            self._running.release()
