"""What the timer does: rebuild in Redis what it has forgotten, take out what is over, go on with what stands still."""

from collections.abc import Iterable, Iterator, Set
from datetime import UTC, datetime, timedelta

import structlog

from heatmill.errors import JobDeleted, JobNotFound, RecordDamaged
from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.bucket import ListedObject
from heatmill.storage.keys import JobId
from heatmill_workers.control import cleanup as sweeping
from heatmill_workers.control.mend import end_without_request, register_mended
from heatmill_workers.control.plan import PLANNERS
from heatmill_workers.control.schedule import ControlContext, feed

ORPHAN_AGE = timedelta(hours=1)
# Jobs of which one tick sees whether they wait where they belong: 30 to 100 ms.
MENDED_AT_A_TIME = 1000

log = structlog.get_logger()


def repair(control: ControlContext) -> None:
    """Rebuild what Redis has forgotten about open jobs, plan what was never planned, feed; delete what is to go."""
    state = control.state
    run, known = state.run_id(), set(state.open_jobs())
    if run_is_new := run != state.checked_run_id():
        _tell_of_cancels(control, known)
        state.note_checked(run)
    marked = {job: marker for marker, job in sweeping.markers(control.storage, keys.OPEN_PREFIX)}
    for job in _forgotten(control, known, marked.keys(), everything=run_is_new):
        with sweeping.log_and_continue(str(job)):
            _repair_job(control, job, marked[job])
    # What is known has a marker, or had one when the markers were not listed yet.
    for job in known - marked.keys():
        with sweeping.log_and_continue(str(job)):
            _repair_unmarked(control, job)
    for job in state.schedule.to_plan(PLANNERS, 1):
        control.dispatcher.plan(job)
    feed(control)
    sweeping.expire(control.storage, control.state)
    sweeping.ring_for_trash(control.storage, control.dispatcher)


def _forgotten(control: ControlContext, known: set[JobId], marked: Set[JobId], *, everything: bool) -> Iterator[JobId]:
    """The open jobs that Redis does not know; the others are looked at, some at each tick where there are many."""
    yield from marked - known
    looked_at = sorted(marked & known, key=str)
    schedule = control.state.schedule
    for job, known_as in schedule.mend(looked_at if everything else schedule.next_part(looked_at, MENDED_AT_A_TIME)):
        if known_as == "unknown":
            yield job


def _tell_of_cancels(control: ControlContext, known: Iterable[JobId]) -> None:
    """A Redis that was started again may remember an older state: without a cancel that is durable."""
    for job in known:
        if control.storage.exists(keys.cancelled(job)):
            control.state.cancel(job)


def _repair_job(control: ControlContext, job: JobId, marker: ListedObject) -> None:
    try:
        _rebuild(control, job)
    except JobDeleted:
        control.storage.delete([marker.key])
    except JobNotFound:
        if datetime.now(UTC) - marker.modified > ORPHAN_AGE:
            control.storage.delete([marker.key])


def _repair_unmarked(control: ControlContext, job: JobId) -> None:
    """Forget a job that is over, of which Redis remembers an older state; one that is open is marked again."""
    try:
        records.load_request(control.storage, job)
    except JobNotFound:
        control.state.forget(job)
        return
    except RecordDamaged:
        # Redis remembers what was asked for.
        pass
    if control.storage.exists(keys.final(job)):
        control.state.forget(job)
    else:
        control.storage.put(keys.open_marker(job), b"")


def _rebuild(control: ControlContext, job: JobId) -> None:
    """Make Redis know the job again; a job that is terminal only lacks the removal of its marker."""
    if control.storage.exists(keys.final(job)):
        control.dispatcher.finish(job)
        return
    try:
        register_mended(control, job)
    except RecordDamaged as error:
        end_without_request(control, job, error)
        return
    log.info("rebuilt", job=str(job))
    list(control.state.schedule.mend([job]))
