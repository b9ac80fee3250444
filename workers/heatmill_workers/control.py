"""Plan, feed, finish, repair: what the control worker does. Each may run twice, or at the same time, without harm."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import uuid4

import structlog

from heatmill import keys, records
from heatmill.catalogue import Catalogue
from heatmill.dispatch import Dispatcher
from heatmill.errors import ClaimLost, JobNotFound, SourceUnreadable
from heatmill.image_uris import SourceRules, UriRefused
from heatmill.keys import JobId
from heatmill.planning import MAX_JOB_ITEMS, as_problem, store_plan, write_plan
from heatmill.progress import job_state, map_status, summary
from heatmill.registering import register
from heatmill.schemas import AcceptedJob, Counts, Item, Job, Plan, Row
from heatmill.settings import Settings
from heatmill.state import JobProgress, RedisJobStore
from heatmill.storage import AccessRefused, ObjectMissing, S3Storage, WriteConflict
from heatmill_workers.sources import Listing, items_of
from heatmill_workers.tables import write_tables

ORPHAN_AGE = timedelta(hours=1)
PLANNER_SECONDS = 30.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Control:
    """What the control functions work with."""

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    catalogue: Catalogue
    settings: Settings


def plan(control: Control, job: JobId) -> None:
    """List the job's items, write its shards and its plan, and start feeding."""
    token = uuid4().hex
    if not control.state.hold_plan(job, token, PLANNER_SECONDS):
        return
    accepted = records.load_request(control.storage, job)
    try:
        written = _write_plan(control, job, accepted, token)
    except (UriRefused, ObjectMissing, AccessRefused, SourceUnreadable) as error:
        written = store_plan(control.storage, job, _failed_plan(accepted, error))
    log.info("planned", job=str(job), shards=written.shards, items=written.items, error=written.error)
    register(control.storage, control.state, job)
    feed(control)


def feed(control: Control) -> None:
    """Keep a bounded window of shards in the queue, round robin over tenants, then over a tenant's jobs."""
    state = control.state
    waiting: dict[JobId, JobProgress] = {}
    outstanding = 0
    for job in state.open_jobs():
        progress = state.progress(job)
        if progress is None:
            continue
        if is_complete(progress):
            finish(control, job)
            continue
        outstanding += state.outstanding(job)
        if progress.shards is not None and not progress.cancelled:
            waiting[job] = progress
    _send(control, waiting, control.settings.window_shards - outstanding)


def is_complete(progress: JobProgress) -> bool:
    """Whether nothing will be committed any more."""
    if progress.cancelled:
        return progress.working == 0
    return progress.shards is not None and progress.committed >= progress.shards + progress.makes_map


def finish(control: Control, job: JobId) -> None:
    """Write the tables and the terminal job, remove the open marker, and let Redis forget the job."""
    storage = control.storage
    if not storage.exists(keys.final(job)):
        committed = records.committed(storage, job)
        write_tables(storage, job, _all_rows(storage, job, committed.shards))
        counts = Counts(total=None, succeeded=committed.succeeded, failed=committed.failed)
        final = _final_job(control, job, counts)
        try:
            storage.write_once(keys.final(job), final.model_dump_json().encode())
        except WriteConflict:
            log.info("finished elsewhere", job=str(job))
        log.info("finished", job=str(job), state=final.state, succeeded=counts.succeeded, failed=counts.failed)
    storage.delete([keys.open_marker(job)])
    control.state.forget(job)


def repair(control: Control) -> None:
    """Rebuild what Redis has forgotten about open jobs, plan what was never planned, then feed."""
    known = set(control.state.open_jobs())
    for marker in control.storage.list(keys.OPEN_PREFIX):
        job = JobId.parse(marker.key.removeprefix(keys.OPEN_PREFIX))
        try:
            progress = control.state.progress(job) if job in known else None
            if progress is None:
                progress = _rebuild(control, job)
            if progress is not None and progress.shards is None and not progress.cancelled:
                control.dispatcher.plan(job)
        except JobNotFound:
            if datetime.now(UTC) - marker.modified > ORPHAN_AGE:
                control.storage.delete([marker.key])
    feed(control)


def _rebuild(control: Control, job: JobId) -> JobProgress | None:
    """Make Redis know the job again; a job that is terminal only lacks the removal of its marker."""
    if control.storage.exists(keys.final(job)):
        finish(control, job)
        return None
    register(control.storage, control.state, job)
    log.info("rebuilt", job=str(job))
    return control.state.progress(job)


def _send(control: Control, waiting: dict[JobId, JobProgress], capacity: int) -> None:
    turns = control.state.turns()
    while capacity > 0 and waiting:
        job = min(waiting, key=lambda each: (turns.get(f"{each.tenant}/", 0), turns.get(str(each), 0)))
        shard = control.state.take(job, control.settings.queue_patience_seconds)
        if shard is None:
            del waiting[job]
            continue
        control.dispatcher.explain(job, shard, waiting[job].summary["priority"])
        turns[f"{job.tenant}/"] = turns[str(job)] = control.state.count_turn(job)
        capacity -= 1


def _write_plan(control: Control, job: JobId, accepted: AcceptedJob, token: str) -> Plan:
    settings = control.settings
    rules = SourceRules(job.tenant, settings.source_prefixes, settings.bucket)
    list_items = items_of(Listing(control.storage, rules, control.catalogue), accepted)

    def watched(after: Item | None) -> Iterator[Item]:
        items = list_items(after)
        if after is None:
            items = _not_empty(items)
        for item in items:
            if item.index >= MAX_JOB_ITEMS:
                raise SourceUnreadable(f"the source lists more than {MAX_JOB_ITEMS:,} items")
            if item.index % accepted.shard_items == 0 and not control.state.hold_plan(job, token, PLANNER_SECONDS):
                raise ClaimLost(f"another worker plans {job}")
            yield item

    return write_plan(control.storage, job, accepted, watched)


def _not_empty(items: Iterator[Item]) -> Iterator[Item]:
    first = next(items, None)
    if first is None:
        raise SourceUnreadable("the source lists no images")
    return chain([first], items)


def _failed_plan(accepted: AcceptedJob, error: Exception) -> Plan:
    """The plan of a job whose source cannot be listed: no shards, and the reason."""
    reason = error if isinstance(error, SourceUnreadable) else SourceUnreadable(f"the source cannot be read: {error}")
    return Plan(
        shards=0,
        items=0,
        results=0,
        model=accepted.request.model,
        methods=accepted.request.methods,
        top_k=accepted.request.top_k,
        map=accepted.request.map,
        error=as_problem(reason),
    )


def _all_rows(storage: S3Storage, job: JobId, shards: tuple[int, ...]) -> Iterator[Row]:
    return chain.from_iterable(records.load_rows(storage, job, number) for number in shards)


def _final_job(control: Control, job: JobId, counts: Counts) -> Job:
    accepted = records.load_request(control.storage, job)
    plan = records.load_plan(control.storage, job)
    cancelled = control.storage.exists(keys.cancelled(job))
    progress = control.state.progress(job)
    total = plan.results if plan else 0
    counts = Counts(
        total=total,
        succeeded=counts.succeeded,
        failed=counts.failed,
        cancelled=total - counts.done if cancelled else 0,
    )
    started = datetime.fromtimestamp(progress.started_at, UTC) if progress and progress.started_at else None
    finished = datetime.now(UTC)
    busy = max((finished - started).total_seconds(), 1e-3) if started else None
    return Job(
        id=job.job,
        state="cancelled" if cancelled and total == 0 else job_state(counts, started=True),
        done=True,
        progress=1.0,
        counts=counts,
        started_at=started,
        finished_at=finished,
        items_per_second=round(plan.items / busy, 3) if plan and busy and not cancelled else None,
        error=plan.error if plan else None,
        **summary(accepted) | {"map": map_status(control.storage, job, cancelled=cancelled)},
    )
