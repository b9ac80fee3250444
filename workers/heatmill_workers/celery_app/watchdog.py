"""Notice a worker that is alive and takes nothing: messages wait, it is idle, and that does not change.

Celery on Redis has lost its consumer after a reconnect in one way or another for years. Such a worker answers pings, so
only what it takes tells. It exits, and whoever keeps it up starts another.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from celery.worker import state as celery_state

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import lists
from heatmill.errors import QueueUnavailable
from heatmill_workers.celery_app.periodic import every

# Looks within the patience. They are counted, not the time: a machine that slept has not looked.
LOOKS = 12
# Between two looks for the parent.
PARENT_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Snapshot:
    """What is seen at one look.

    Args:
        waiting: Messages in the worker's queue.
        taken: Messages that the worker has taken since it started.
        busy: Whether it has one now.
    """

    waiting: int
    taken: int
    busy: bool


class Watchdog:
    """Counts looks at which messages waited for a worker that was idle and took none.

    Args:
        see: Looks.
        give_up: Ends the process.
    """

    def __init__(self, observe: Callable[[], Snapshot], give_up: Callable[[], None]) -> None:
        self._see, self._give_up = observe, give_up
        self._taken = 0
        self._idle_polls = 0

    def poll(self) -> None:
        """Look once."""
        try:
            sight = self._see()
        except QueueUnavailable:
            # Nobody can take anything.
            self._idle_polls = 0
            return
        stuck = sight.waiting > 0 and not sight.busy and sight.taken == self._taken
        self._taken = sight.taken
        self._idle_polls = self._idle_polls + 1 if stuck else 0
        if self._idle_polls >= LOOKS:
            log.critical("messages wait and none is taken: the worker ends, to be started again", waiting=sight.waiting)
            self._give_up()


def watch(state: RedisJobStore, queue: str, patience_seconds: float) -> None:
    """Watch over the Celery worker of this process, in a thread, for as long as it lives."""

    def observe() -> Snapshot:
        busy = bool(celery_state.reserved_requests or celery_state.active_requests)
        return Snapshot(state.waiting(lists(queue)), celery_state.all_total_count[0], busy)

    # At once and without tidying up: what it would wait for may be what hangs, and an idle worker has nothing to lose.
    every("watchdog", patience_seconds / LOOKS, Watchdog(observe, lambda: os._exit(1)).poll)


def end_with_parent() -> None:
    """Watch in a child for the end of its parent: nobody else would end a child that hangs, and has the device."""
    parent = os.getppid()
    every("parent", PARENT_SECONDS, lambda: None if os.getppid() == parent else os._exit(1))
