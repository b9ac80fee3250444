"""Records that were damaged or lost: set aside, and made again from what is left.

Commit records, the plan, the map and the end of a job follow from its request, its shards and its images. So a job that
is over is opened again where one of them is gone: what stands is kept, the rest is done again, and the job ends with
the counts of its rows. Of a request that is lost the plan says enough to go on; where there is none either, the job
ends, and its end says so.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import structlog

from heatmill.errors import JobDeleted, JobNotFound, RecordDamaged
from heatmill.jobs import records
from heatmill.jobs.damaged import readable_plan, set_aside
from heatmill.jobs.documents import encode
from heatmill.jobs.planner import as_problem
from heatmill.jobs.registration import register
from heatmill.schemas import CommitHeader, Counts, Job, Plan
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing, S3Storage
from heatmill.storage.keys import CommitName, JobId
from heatmill.storage.read_ahead import read_ahead
from heatmill_workers.control.context import ControlContext

# Of one job, in one go; what is left is found at the next.
AT_ONCE = 1000

log = structlog.get_logger()


def mend(control: ControlContext, job: JobId) -> None:
    """Look at all records of a job; one of which any is damaged or missing is open from now on.

    Raises:
        RecordTooNew: A newer heatmill wrote one of them.
    """
    storage = control.storage
    try:
        records.load_request(storage, job)
    except JobNotFound:
        return
    except RecordDamaged:
        if _end_of(storage, job) is None:
            _mark_open(control, job)
        return
    final = _end_of(storage, job)
    if final is None:
        _mark_open(control, job)
    elif not _is_sound(storage, job, final):
        log.warning("a job is opened again, since some of its records are lost", job=str(job))
        _mark_open(control, job)
        storage.delete([keys.final(job)])


def register_mended(control: ControlContext, job: JobId) -> None:
    """Make Redis know a job, without its records that are damaged.

    Raises:
        JobNotFound: There is no such job, or nobody knows it any more.
        RecordDamaged: Its request is damaged, and it has no plan.
    """
    lost: RecordDamaged | None = None
    for _ in range(AT_ONCE):
        try:
            _register(control, job, lost)
        except RecordDamaged as error:
            if error is lost:
                raise
            if error.key == keys.request(job):
                lost = error
            else:
                set_aside(control.storage, error)
        else:
            return


def _register(control: ControlContext, job: JobId, lost: RecordDamaged | None) -> None:
    if lost is not None:
        _register_by_plan(control, job, lost)
        return
    try:
        register(control.storage, control.state, job)
    except JobDeleted:
        raise
    except JobNotFound as error:
        # A POST that is not through yet has written nothing else.
        if next(control.storage.list(job.prefix), None) is None:
            raise
        raise RecordDamaged(keys.request(job), "it is missing") from error


def _register_by_plan(control: ControlContext, job: JobId, lost: RecordDamaged) -> None:
    plan = records.load_plan(control.storage, job)
    if plan is None:
        raise lost
    log.error("a job goes on by its plan, since its request is damaged", job=str(job), reason=str(lost))
    summary = {
        "created_at": _written(control.storage, job).isoformat(),
        "model": plan.model,
        "methods": [method.model_dump() for method in plan.methods],
        "map": None if plan.map is None else plan.map.model_dump(),
        "priority": "normal",
        "metadata": {},
        "request_id": "",
    }
    control.state.register(job, summary, plan, records.committed(control.storage, job))
    if control.storage.exists(keys.cancelled(job)):
        control.state.cancel(job)


def _written(storage: S3Storage, job: JobId) -> datetime:
    """When the job was accepted, as far as its objects tell."""
    first = next(storage.list(keys.request(job)), None) or next(storage.list(job.prefix), None)
    return datetime.now(UTC) if first is None else first.modified


def end_without_request(control: ControlContext, job: JobId, damaged: RecordDamaged) -> None:
    """End a job of which nobody knows any more what was asked for; what is done of it stays."""
    log.error("a job ends, since its request is damaged", job=str(job), reason=str(damaged))
    storage = control.storage
    plan, found = readable_plan(storage, job), records.committed(storage, job)
    counts = Counts(
        total=found.succeeded + found.failed, succeeded=found.succeeded, failed=found.failed, cached=found.cached
    )
    final = Job(
        id=job.job,
        state="failed",
        done=True,
        progress=1.0,
        counts=counts,
        created_at=_written(storage, job),
        finished_at=datetime.now(UTC),
        model=plan.model if plan else "",
        methods=plan.methods if plan else (),
        priority="normal",
        error=as_problem(damaged),
    )
    storage.write_once(keys.final(job), encode(final))
    storage.delete([keys.open_marker(job)])
    control.state.forget(job)


def _end_of(storage: S3Storage, job: JobId) -> Job | None:
    """The job's end, if it has one that can be read."""
    try:
        return records.load_final(storage, job)
    except RecordDamaged as error:
        set_aside(storage, error)
        return None


def _is_sound(storage: S3Storage, job: JobId, final: Job) -> bool:
    """Whether the records of a job that is over are those that its end counted."""
    plan = readable_plan(storage, job)
    headers = list(_headers(storage, job))
    counted = (sum(header.succeeded for header in headers), sum(header.failed for header in headers))
    if counted != (final.counts.succeeded, final.counts.failed):
        return False
    if plan is None:
        return final.state == "cancelled"
    return not (plan.makes_map and final.state != "cancelled") or _has_map(storage, job, plan)


def _headers(storage: S3Storage, job: JobId) -> Iterator[CommitHeader]:
    """Of the records that are whole; the others are set aside."""

    def load(name: CommitName) -> CommitHeader | RecordDamaged | None:
        try:
            return records.load_commit(storage, job, *name)[0]
        except RecordDamaged as error:
            return error
        except ObjectMissing:
            return None

    for found in read_ahead(load, records.committed_names(storage, job)):
        if isinstance(found, RecordDamaged):
            set_aside(storage, found)
        elif found is not None:
            yield found


def _has_map(storage: S3Storage, job: JobId, plan: Plan) -> bool:
    try:
        made = records.load_map(storage, job)
    except RecordDamaged as error:
        set_aside(storage, error)
        return False
    if made is None:
        storage.delete([keys.commit(job, plan.shards)])
    return made is not None


def _mark_open(control: ControlContext, job: JobId) -> None:
    """The timer finds it by its marker."""
    control.storage.put(keys.open_marker(job), b"")
