"""Plan jobs in slices, by turns between tenants: a source of any length delays nobody for longer than a slice.

What has been read of a source stays open between its slices, in this process; the hold on the job says so to others.
Whoever goes on after a process that died reads from the start: shard files that are written stand.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from uuid import uuid4

import structlog

from heatmill.coordination.conditions import clear_condition, note_condition, waits_for_storage
from heatmill.errors import (
    ClaimLost,
    JobNotFound,
    MachineError,
    RecordDamaged,
    SourceUnreadable,
    StorageUnavailable,
    TransientError,
)
from heatmill.images.source_uri import SourceRules, UriRefused
from heatmill.jobs import records
from heatmill.jobs.planner import failed_plan, plan_steps, store_plan
from heatmill.jobs.registration import register
from heatmill.schemas import AcceptedJob, Plan
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill.storage.write_trial import try_write
from heatmill_workers.control.context import ControlContext
from heatmill_workers.control.mend import end_without_request
from heatmill_workers.control.sources import Listing, items_of

PLANNER = "planner"
HOLD_SECONDS = 30.0
SLICE_SECONDS = 1.0
PAUSE_SECONDS = 0.2
# Slices at a time in one process: they keep Python's lock for most of their time, and feed and finish need it too.
PLANNERS = 2
# Sources that stay open; each holds a connection, a shard, and its ids on disk with some MiB of them in memory. Beyond
# them a source that is not done after its slice is closed, and begun again: what is open makes room when it is done.
MAX_OPEN = 16
# Jobs that are looked at to find one that nobody else plans.
TENANTS, JOBS_OF_TENANT = 16, 4

log = structlog.get_logger()


@dataclass(frozen=True)
class Planning:
    """A job whose source is being listed.

    Args:
        token: Of the hold on the job.
        steps: Writes one shard file at each step, and returns the plan.
    """

    job: JobId
    token: str
    steps: Generator[None, None, Plan]


class Planner:
    """Plans whoever has the next turn, for as long as a slice."""

    def __init__(self, control: ControlContext, slice_seconds: float = SLICE_SECONDS) -> None:
        self._control, self._slice_seconds = control, slice_seconds
        self._slots = BoundedSemaphore(PLANNERS)
        self._lock = Lock()
        self._open: dict[JobId, Planning] = {}
        self._busy: set[JobId] = set()

    def turn(self, new: JobId | None = None) -> JobId | None:
        """Plan the next job for about a second.

        Args:
            new: A job that may be new: it waits for its turn from now on.

        Returns:
            A job that is left to plan; None where there is none, or where enough others plan here.

        Raises:
            TransientError: The job is put off.
        """
        if new is not None:
            list(self._control.state.schedule.mend([new]))
        if not self._slots.acquire(blocking=False):
            return None
        try:
            self._close_ended()
            if (planning := self._next()) is not None:
                self._advance(planning)
            left = next(iter(self._control.state.schedule.to_plan(1, 1)), None)
            if planning is None and left is not None:
                # Others plan what is left: whoever rings for it again at once would only take the message from them.
                time.sleep(PAUSE_SECONDS)
            return left
        finally:
            self._slots.release()

    def _next(self) -> Planning | None:
        for job in self._control.state.schedule.to_plan(TENANTS, JOBS_OF_TENANT):
            with self._lock:
                if job in self._busy:
                    continue
                self._busy.add(job)
                planning = self._open.pop(job, None)
            try:
                planning = _held(self._control, planning) if planning else begin(self._control, job)
            except BaseException:
                # A request of a newer heatmill, say: it must not be what everybody's next turn begins with.
                self._busy.discard(job)
                self._control.state.schedule.note_planning(job, put_off=True)
                raise
            if planning is not None:
                return planning
            self._busy.discard(job)
        return None

    def _advance(self, planning: Planning) -> None:
        try:
            if not plan_for(self._control, planning, self._slice_seconds):
                self._keep(planning)
        except ClaimLost as error:
            log.info("not planned", job=str(planning.job), reason=str(error))
        except StorageUnavailable as error:
            detail = f"its items cannot be listed now: {error}"
            note_condition(self._control.state, planning.job, detail, "waiting_for_storage")
            raise
        except TransientError:
            raise
        except Exception as error:
            # A worker that cannot plan this job, which the timer comes back to, still plans others.
            log.exception("not planned", job=str(planning.job))
            told = str(error) if isinstance(error, MachineError) else f"{type(error).__name__}; the log has the trace"
            note_condition(self._control.state, planning.job, f"its items cannot be listed now: {told}")
        finally:
            self._busy.discard(planning.job)

    def _keep(self, planning: Planning) -> None:
        with self._lock:
            if len(self._open) < MAX_OPEN:
                self._open[planning.job] = planning
                return
        _end(self._control, planning)

    def _close_ended(self) -> None:
        """Close the sources of jobs that were cancelled, deleted, or planned by others."""
        with self._lock:
            waiting = list(self._open)
        ended = [job for job, known in self._control.state.schedule.mend(waiting) if known != "unplanned"]
        with self._lock:
            closed = [planning for job in ended if (planning := self._open.pop(job, None)) is not None]
        for planning in closed:
            _end(self._control, planning)


def begin(control: ControlContext, job: JobId) -> Planning | None:
    """Hold a job that is to be planned; None where somebody else does, or where it is over."""
    if (accepted := _still_open(control, job)) is None:
        # The message comes late, or again. Where the POST came late itself, it has made the job look as if it ran.
        control.state.forget(job)
        return None
    token = uuid4().hex
    if not control.state.acquire_lock(job, PLANNER, token, HOLD_SECONDS):
        return None
    return Planning(job, token, _steps(control, job, accepted))


def plan_for(control: ControlContext, planning: Planning, seconds: float) -> bool:
    """Plan a job for a while; whether its plan is written. Whatever fails ends the planning.

    Raises:
        ClaimLost: The job was cancelled, or somebody else plans it.
        TransientError: Storage or Redis does not answer.
    """
    try:
        _check(control, planning)
        control.state.schedule.note_planning(planning.job)
        if waits_for_storage(control.state, planning.job):
            # Before a source is listed again for nothing.
            try_write(control.storage, planning.job.prefix)
        written = _advanced(planning.steps, seconds)
    except BaseException:
        _end(control, planning)
        control.state.schedule.note_planning(planning.job, put_off=True)
        raise
    if written is None:
        return False
    _end(control, planning)
    clear_condition(control.state, planning.job)
    log.info("planned", job=str(planning.job), shards=written.shards, items=written.items, error=written.error)
    _tell(control, planning.job)
    return True


def _advanced(steps: Generator[None, None, Plan], seconds: float) -> Plan | None:
    """The plan, where it is complete within the time; one step is made in any case."""
    until = time.monotonic() + seconds
    try:
        next(steps)
        while time.monotonic() < until:
            next(steps)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    return None


def _tell(control: ControlContext, job: JobId) -> None:
    """Make Redis know the plan, and let the job wait for its turns to be sent."""
    register(control.storage, control.state, job)
    if control.storage.exists(keys.final(job)):
        # It was cancelled, finished and forgotten while it was planned.
        control.state.forget(job)
    list(control.state.schedule.mend([job]))


def _still_open(control: ControlContext, job: JobId) -> AcceptedJob | None:
    if control.storage.exists(keys.final(job)):
        return None
    try:
        return records.load_request(control.storage, job)
    except JobNotFound:
        return None
    except RecordDamaged as error:
        end_without_request(control, job, error)
        return None


def _held(control: ControlContext, planning: Planning) -> Planning | None:
    if control.state.acquire_lock(planning.job, PLANNER, planning.token, HOLD_SECONDS):
        return planning
    planning.steps.close()
    return None


def _end(control: ControlContext, planning: Planning) -> None:
    planning.steps.close()
    control.state.release_lock(planning.job, PLANNER, planning.token)


def _check(control: ControlContext, planning: Planning) -> None:
    if control.state.is_cancelled(planning.job):
        raise ClaimLost(f"{planning.job} was cancelled while its source was listed")
    if not control.state.acquire_lock(planning.job, PLANNER, planning.token, HOLD_SECONDS):
        raise ClaimLost(f"another worker plans {planning.job}")


def _steps(control: ControlContext, job: JobId, accepted: AcceptedJob) -> Generator[None, None, Plan]:
    """Write the shard files, one at each step, then the plan, which says why where the source cannot be listed."""
    settings = control.settings
    rules = SourceRules(job.tenant, settings.source_prefixes, settings.bucket)
    try:
        list_items = items_of(Listing(control.storage, rules, control.catalogue), accepted)
        return (yield from plan_steps(control.storage, job, accepted, list_items))
    except (UriRefused, SourceUnreadable) as error:
        return store_plan(control.storage, job, failed_plan(job, accepted.request, error))
