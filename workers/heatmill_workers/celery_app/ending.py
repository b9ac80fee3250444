"""End a worker that can do no work, from the process that has found out; and its rest before it tries again."""

import os
import signal
import threading
import time
from collections.abc import Callable

import structlog
from celery.worker import state as celery_state

from heatmill.coordination.conditions import note_unfit
from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.live_workers import BEAT_SECONDS, beat, leave
from heatmill.coordination.rests import count_end, rest_seconds
from heatmill.errors import QueueUnavailable, RedisUnsuitable
from heatmill_workers.celery_app.periodic import every

# Its parent listens to this one; a child listens to the same for what its parent says. Celery uses SIGUSR1.
SIGNAL = signal.SIGUSR2
EXIT_STATUS = 1
# For a parent that hangs while it lets go of the queue.
PATIENCE_SECONDS = 30.0

log = structlog.get_logger()

_ENDING = threading.Event()
_LISTENERS: set[int] = set()


def listen_to_children() -> None:
    """In the parent, in its main thread: stop taking messages and end, once a child says that there is no use."""
    _LISTENERS.add(os.getpid())
    signal.signal(SIGNAL, lambda *_: _end())


def end_worker(reason: str) -> None:
    """In a child: end the worker. Its parent takes nothing more, acknowledges what is done, and ends with status 1."""
    log.critical("this worker can do no work, and ends", reason=reason)
    # A pool without children runs the work in the process that listens.
    os.kill(os.getpid() if os.getpid() in _LISTENERS else os.getppid(), SIGNAL)


def end_unless_it_opens(state: RedisJobStore, place: str, open_all: Callable[[], object]) -> None:
    """In a child, before its first shard: end the worker where what it needs cannot be set up."""
    try:
        open_all()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.exception("the worker cannot be set up")
        _note_unfit(state, place, reason)
        end_worker(reason)


def tell_unfit(redis_url: str, place: str, reason: str) -> None:
    """In the parent: say why it does not start, where Redis can be told."""
    try:
        _note_unfit(open_state(redis_url), place, reason)
    except RedisUnsuitable:
        # That is the reason.
        return


def say_that_it_lives(state: RedisJobStore, place: str) -> threading.Event:
    """In the parent: say so now and every few seconds, until it ends or the event is set."""

    def say() -> None:
        try:
            if not _ENDING.is_set():
                beat(state, place)
        except QueueUnavailable as error:
            log.warning("cannot say that it lives", error=str(error))

    say()
    return every("beat", BEAT_SECONDS, say)


def say_that_it_ends(state: RedisJobStore, place: str) -> None:
    """In the parent, at its end."""
    _ENDING.set()
    try:
        leave(state, place)
    except QueueUnavailable as error:
        log.warning("cannot say that it ends", error=str(error))


def rest(redis_url: str, place: str) -> None:
    """In the parent, before it takes anything: wait the longer, the more often it has ended for its machine's fault."""
    try:
        seconds = rest_seconds(open_state(redis_url), place)
    except (QueueUnavailable, RedisUnsuitable):
        # Nothing can be taken either.
        return
    if seconds > 0:
        log.warning("the worker rests: its machine could do no work when it was last started", seconds=seconds)
        time.sleep(seconds)


def _note_unfit(state: RedisJobStore, place: str, reason: str) -> None:
    try:
        note_unfit(state, place, reason)
        count_end(state, place)
    except QueueUnavailable as error:
        log.warning("the reason is not noted", error=str(error))


def _end() -> None:
    _ENDING.set()
    # As Celery's own handlers of signals do for a warm shutdown, with another status.
    celery_state.should_stop = EXIT_STATUS
    timer = threading.Timer(PATIENCE_SECONDS, os._exit, [EXIT_STATUS])
    timer.daemon = True
    timer.start()
