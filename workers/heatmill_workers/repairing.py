"""What the timer does: rebuild in Redis what it has forgotten, take out what is over, go on with what stands still."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import structlog

from heatmill import keys, records
from heatmill.errors import JobNotFound
from heatmill.job_progress import JobProgress
from heatmill.keys import JobId
from heatmill.registering import register
from heatmill.storage import ListedObject, S3Storage
from heatmill_workers import sweeping
from heatmill_workers.control import Control, feed

ORPHAN_AGE = timedelta(hours=1)

log = structlog.get_logger()


def repair(control: Control) -> None:
    """Rebuild what Redis has forgotten about open jobs, plan what was never planned, feed; delete what is to go."""
    state = control.state
    run, known = state.run_id(), set(state.open_jobs())
    if run != state.checked_run_id():
        _tell_of_cancels(control, known)
        state.note_checked(run)
    marked = set()
    for marker, job in sweeping.markers(control.storage, keys.OPEN_PREFIX):
        marked.add(job)
        with sweeping.alone(marker.key):
            _repair_job(control, job, marker, job in known)
    # What is known has a marker, or had one when the markers were not listed yet.
    for job in known - marked:
        with sweeping.alone(str(job)):
            _repair_unmarked(control, job)
    feed(control)
    sweeping.expire(control.storage, control.state)
    sweeping.ring_for_trash(control.storage, control.dispatcher)


def _tell_of_cancels(control: Control, known: Iterable[JobId]) -> None:
    """A Redis that was started again may remember an older state: without a cancel that is durable."""
    for job in known:
        if control.storage.exists(keys.cancelled(job)):
            control.state.cancel(job)


def _repair_job(control: Control, job: JobId, marker: ListedObject, is_known: bool) -> None:
    try:
        progress = control.state.progress(job) if is_known else None
        if progress is None:
            progress = _rebuild(control, job)
        if progress is not None and progress.shards is None and not progress.cancelled:
            control.dispatcher.plan(job)
    except JobNotFound:
        if datetime.now(UTC) - marker.modified > ORPHAN_AGE:
            control.storage.delete([marker.key])


def _repair_unmarked(control: Control, job: JobId) -> None:
    """Forget a job that is over, of which Redis remembers an older state; one that is open is marked again."""
    try:
        records.load_request(control.storage, job)
    except JobNotFound:
        control.state.forget(job)
        return
    if control.storage.exists(keys.final(job)):
        control.state.forget(job)
    else:
        control.storage.put(keys.open_marker(job), b"")


def _rebuild(control: Control, job: JobId) -> JobProgress | None:
    """Make Redis know the job again; a job that is terminal only lacks the removal of its marker."""
    if control.storage.exists(keys.final(job)):
        control.dispatcher.finish(job)
        return None
    try:
        register(control.storage, control.state, job)
    except ValueError:
        if not _drop_damaged_plan(control.storage, job):
            raise
        register(control.storage, control.state, job)
    log.info("rebuilt", job=str(job))
    return control.state.progress(job)


def _drop_damaged_plan(storage: S3Storage, job: JobId) -> bool:
    """Whether it was the plan that cannot be read: it is made again, from the request and the shards' files."""
    try:
        records.load_plan(storage, job)
    except ValueError:
        log.exception("the plan is made again", job=str(job))
        storage.delete([keys.plan(job)])
        return True
    return False
