"""Plan, feed, sweep: what the control worker does. Each may run twice, or at once, without harm."""

from functools import partial
from math import inf
from uuid import uuid4

from heatmill.coordination.progress import JobProgress
from heatmill.coordination.schedule import Filled, Sent, Window
from heatmill.coordination.task_queue import CONTROL_QUEUE, EXPLAIN_QUEUE, PRIORITIES, lists
from heatmill.errors import QueueUnavailable
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control import cleanup as sweeping
from heatmill_workers.control.context import ControlContext
from heatmill_workers.control.plan import HOLD_SECONDS, begin, plan_for

__all__ = ["ControlContext", "feed", "is_complete", "plan", "sweep"]

SWEEPER = "sweeper"
# Shards that one script chooses: what is not sent after all, since Redis goes away, waits for its patience.
AT_A_TIME = 16
# Messages in the control queue beyond which no job is told to be complete: the next feed does that.
CONTROL_MESSAGES = 64


def plan(control: ControlContext, job: JobId) -> None:
    """List a job's items, write its shards and its plan, and start feeding: all in one, whoever else waits.

    Raises:
        ClaimLost: The job was cancelled.
    """
    if (planning := begin(control, job)) is not None:
        plan_for(control, planning, inf)
    feed(control)


def feed(control: ControlContext) -> None:
    """Keep a bounded window of shards in the queue: by priority, then tenants in turn, then a tenant's jobs in turn."""
    while True:
        filled = _fill(control)
        for job in filled.complete:
            control.dispatcher.finish(job)
        _send(control, filled.shards)
        if len(filled.shards) < AT_A_TIME:
            return


def is_complete(progress: JobProgress) -> bool:
    """Whether nothing will be committed any more."""
    if progress.cancelled:
        return progress.working == 0
    return progress.shards is not None and progress.committed >= progress.shards + progress.makes_map


def sweep(control: ControlContext, job: JobId) -> None:
    """Remove the objects of a job that was deleted."""
    token = uuid4().hex
    if not control.state.acquire_lock(job, SWEEPER, token, HOLD_SECONDS):
        return
    try:
        if control.storage.exists(keys.trash_marker(job)):
            ours = partial(control.state.acquire_lock, job, SWEEPER, token, HOLD_SECONDS)
            sweeping.sweep(control.storage, job, ours, again_seconds=2 * control.settings.shard_limit_seconds)
    finally:
        control.state.release_lock(job, SWEEPER, token)


def _fill(control: ControlContext) -> Filled:
    state, settings = control.state, control.settings
    return state.schedule.fill(
        Window(settings.window_shards, lists(EXPLAIN_QUEUE), settings.timer_seconds),
        settings.queue_patience_seconds,
        AT_A_TIME,
        CONTROL_MESSAGES - state.waiting(lists(CONTROL_QUEUE)),
    )


def _send(control: ControlContext, shards: tuple[Sent, ...]) -> None:
    for place, sent in enumerate(shards):
        try:
            control.dispatcher.explain(sent.job, sent.shard, PRIORITIES[sent.step])
        except QueueUnavailable:
            control.state.schedule.give_back(shards[place:])
            raise
