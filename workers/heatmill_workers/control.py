"""Plan, feed, finish, sweep, repair: what the control worker does. Each may run twice, or at once, without harm."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from uuid import uuid4

import structlog

from heatmill import keys, records
from heatmill.catalogue import Catalogue
from heatmill.dispatch import EXPLAIN_QUEUE, PRIORITY_STEPS, Dispatcher, lists
from heatmill.errors import (
    ClaimLost,
    HeatmillError,
    JobDeleted,
    JobNotFound,
    Overtaken,
    SourceUnreadable,
    TransientError,
)
from heatmill.image_uris import SourceRules, UriRefused
from heatmill.job_progress import JobProgress
from heatmill.keys import JobId
from heatmill.planning import MAX_JOB_ITEMS, ListItems, as_problem, new_plan, store_plan, write_plan
from heatmill.progress import job_state, map_status, summary
from heatmill.read_ahead import read_ahead
from heatmill.registering import register
from heatmill.schemas import AcceptedJob, Counts, Item, Job, Plan, Row
from heatmill.settings import Settings
from heatmill.state import LAST_TURN, RedisJobStore
from heatmill.storage import AccessRefused, BucketMissing, ListedObject, ObjectMissing, S3Storage, WriteConflict
from heatmill_workers import sweeping
from heatmill_workers.sources import Listing, items_of
from heatmill_workers.tables import write_tables

ORPHAN_AGE = timedelta(hours=1)
PLANNER = "planner"
FINISHER = "finisher"
SWEEPER = "sweeper"
HOLD_SECONDS = 30.0

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
    if control.storage.exists(keys.final(job)):
        # The message comes late, or again. Where the POST came late itself, it has made the job look as if it ran.
        control.state.forget(job)
        return
    try:
        accepted = records.load_request(control.storage, job)
    except JobDeleted:
        return
    token = uuid4().hex
    if not control.state.hold(job, PLANNER, token, HOLD_SECONDS):
        return
    try:
        written = _write_plan(control, job, accepted, token)
    except (UriRefused, SourceUnreadable) as error:
        written = store_plan(control.storage, job, _failed_plan(accepted, error))
    finally:
        control.state.let_go(job, PLANNER, token)
    log.info("planned", job=str(job), shards=written.shards, items=written.items, error=written.error)
    register(control.storage, control.state, job)
    if control.storage.exists(keys.final(job)):
        # It was cancelled, finished and forgotten while it was planned.
        control.state.forget(job)
    feed(control)


def feed(control: Control) -> None:
    """Keep a bounded window of shards in the queue: by priority, then tenants in turn, then a tenant's jobs in turn."""
    while True:
        try:
            return _fill_window(control)
        except Overtaken:
            # Another feed, or a POST, sent something after this one had counted: nobody else may count what came then.
            continue


def _fill_window(control: Control) -> None:
    state = control.state
    turns = state.turns()
    waiting: dict[JobId, JobProgress] = {}
    outstanding = 0
    for job, progress in state.progress_of_all().items():
        if is_complete(progress):
            control.dispatcher.finish(job)
            continue
        outstanding += progress.outstanding
        if progress.shards is not None and not progress.cancelled:
            waiting[job] = progress
    # What was sent again while no worker took anything lies in the queue twice.
    outstanding = max(outstanding, state.waiting(lists(EXPLAIN_QUEUE)))
    _send(control, waiting, control.settings.window_shards - outstanding, turns)


def is_complete(progress: JobProgress) -> bool:
    """Whether nothing will be committed any more."""
    if progress.cancelled:
        return progress.working == 0
    return progress.shards is not None and progress.committed >= progress.shards + progress.makes_map


def finish(control: Control, job: JobId) -> None:
    """Write the tables and the terminal job, remove the open marker, and let Redis forget the job.

    A job that is not complete is left alone, whoever asks: what is terminal stays so.
    """
    token = uuid4().hex
    if not control.state.hold(job, FINISHER, token, HOLD_SECONDS):
        return
    try:
        if not control.storage.exists(keys.final(job)):
            accepted = records.load_request(control.storage, job)
            progress = control.state.progress(job)
            if progress is None or not is_complete(progress):
                log.warning("not finished: it is not complete", job=str(job))
                return
            if not _write_final(control, accepted, token):
                # Redis said more than the store holds, which is the truth.
                control.state.forget(job)
                return
    except JobDeleted:
        # It was final, and Redis went away before it could forget the job.
        log.info("deleted meanwhile", job=str(job))
    finally:
        control.state.let_go(job, FINISHER, token)
    control.storage.delete([keys.open_marker(job)])
    control.state.forget(job)


def sweep(control: Control, job: JobId) -> None:
    """Remove the objects of a job that was deleted."""
    token = uuid4().hex
    if not control.state.hold(job, SWEEPER, token, HOLD_SECONDS):
        return
    try:
        if control.storage.exists(keys.trash_marker(job)):
            ours = partial(control.state.hold, job, SWEEPER, token, HOLD_SECONDS)
            sweeping.sweep(control.storage, job, ours, again_seconds=2 * control.settings.shard_limit_seconds)
    finally:
        control.state.let_go(job, SWEEPER, token)


def repair(control: Control) -> None:
    """Rebuild what Redis has forgotten about open jobs, plan what was never planned, feed; delete what is to go."""
    state = control.state
    known = set(state.open_jobs())
    start = state.start()
    has_restarted = start != state.checked_start()
    marked = set()
    for marker in control.storage.list(keys.OPEN_PREFIX):
        with _alone(marker.key):
            job = JobId.parse(marker.key.removeprefix(keys.OPEN_PREFIX))
            marked.add(job)
            _repair_job(control, job, marker, job in known, has_restarted=has_restarted)
    # What is known has a marker, or had one when the markers were not listed yet.
    for job in known - marked:
        with _alone(str(job)):
            _repair_unmarked(control, job)
    state.note_checked(start)
    feed(control)
    sweeping.expire(control.storage, control.state)
    sweeping.ring_for_trash(control.storage, control.dispatcher)


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """A damaged record, or a stray object under open/, is its own trouble, not that of the other jobs."""
    try:
        yield
    except TransientError:
        raise
    except (HeatmillError, LookupError, ValueError):
        log.exception("cannot be repaired", what=what)


def _repair_job(control: Control, job: JobId, marker: ListedObject, is_known: bool, *, has_restarted: bool) -> None:
    try:
        progress = control.state.progress(job) if is_known else None
        if progress is None:
            progress = _rebuild(control, job)
        elif has_restarted and control.storage.exists(keys.cancelled(job)):
            # A Redis that was started again may remember what was true before.
            control.state.cancel(job)
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


def _send(control: Control, waiting: dict[JobId, JobProgress], capacity: int, turns: dict[str, int]) -> None:
    def urgency(job: JobId) -> tuple[int, int, int]:
        step = PRIORITY_STEPS[waiting[job].summary["priority"]]
        return step, turns.get(f"{job.tenant}/", 0), turns.get(str(job), 0)

    while capacity > 0 and waiting:
        job = min(waiting, key=urgency)
        shard = control.state.take(job, control.settings.queue_patience_seconds, turns.get(LAST_TURN, 0))
        if shard is None:
            del waiting[job]
            continue
        control.dispatcher.explain(job, shard, waiting[job].summary["priority"])
        turns[LAST_TURN] = turns[f"{job.tenant}/"] = turns[str(job)] = turns.get(LAST_TURN, 0) + 1
        capacity -= 1
    # A POST of one shard must not jump ahead of these; where feeds cease, it need not wait for them.
    left = {waiting[job].summary["priority"] for job in waiting}
    waited_for: dict[str, bool] = {priority: priority in left for priority in PRIORITY_STEPS}
    control.state.note_turns(waited_for, 2 * control.settings.timer_seconds)


def _write_plan(control: Control, job: JobId, accepted: AcceptedJob, token: str) -> Plan:
    settings = control.settings
    rules = SourceRules(job.tenant, settings.source_prefixes, settings.bucket)
    list_items = items_of(Listing(control.storage, rules, control.catalogue), accepted)

    def watched(after: Item | None) -> Iterator[Item]:
        items = list_items(after)
        for item in _not_empty(items) if after is None else items:
            if item.index >= MAX_JOB_ITEMS:
                raise SourceUnreadable(f"the source lists more than {MAX_JOB_ITEMS:,} items")
            if item.index % accepted.shard_items == 0:
                _still_wanted(control, job, token)
            yield item

    return write_plan(control.storage, job, accepted, _readable(watched))


def _still_wanted(control: Control, job: JobId, token: str) -> None:
    if control.state.is_cancelled(job):
        raise ClaimLost(f"{job} was cancelled while its source was listed")
    if not control.state.hold(job, PLANNER, token, HOLD_SECONDS):
        raise ClaimLost(f"another worker plans {job}")


def _readable(list_items: ListItems) -> ListItems:
    """Name the source where it cannot be read; what cannot be written is another matter."""

    def listed(after: Item | None) -> Iterator[Item]:
        try:
            yield from list_items(after)
        except BucketMissing as error:
            raise SourceUnreadable("the source cannot be read: there is no such bucket") from error
        except ObjectMissing as error:
            raise SourceUnreadable(f"the source cannot be read: there is no such object: {error}") from error
        except AccessRefused as error:
            raise SourceUnreadable(f"the source cannot be read: {error}") from error

    return listed


def _not_empty(items: Iterator[Item]) -> Iterator[Item]:
    first = next(items, None)
    if first is None:
        raise SourceUnreadable("the source lists no images")
    return chain([first], items)


def _failed_plan(accepted: AcceptedJob, error: Exception) -> Plan:
    """The plan of a job whose source cannot be listed: no shards, and the reason."""
    reason = error if isinstance(error, SourceUnreadable) else SourceUnreadable(str(error))
    return new_plan(accepted.request, shards=0, items=0, results=0, error=as_problem(reason))


def _held_rows(control: Control, job: JobId, token: str, counts: Counter[str], counted: set[int]) -> Iterator[Row]:
    """All rows, how many there are of each kind, and of which shards, while the hold on the finish is prolonged."""
    numbers = records.committed_numbers(control.storage, job)
    for header, rows in read_ahead(partial(records.load_commit, control.storage, job), numbers):
        control.state.hold(job, FINISHER, token, HOLD_SECONDS)
        counts.update(succeeded=header.succeeded, failed=header.failed, cached=header.cached)
        counted.add(header.shard)
        yield from rows


def _write_final(control: Control, accepted: AcceptedJob, token: str) -> bool:
    """Whether it is written: not where the records do not add up to the whole job."""
    storage, job = control.storage, JobId(accepted.tenant, accepted.id)
    counts: Counter[str] = Counter(succeeded=0, failed=0, cached=0)
    counted = set[int]()
    write_tables(storage, job, _held_rows(control, job, token, counts, counted))
    cancelled = storage.exists(keys.cancelled(job))
    plan = records.load_plan(storage, job)
    if not cancelled and (plan is None or len(counted) < plan.shards + plan.makes_map):
        log.error("commit records are missing", job=str(job), found=len(counted))
        return False
    final = _final_job(control, accepted, plan, Counts(total=None, **counts), cancelled=cancelled)
    if final.expires_at is not None:
        storage.put(keys.expiry_marker(job, final.expires_at), b"")
    try:
        storage.write_once(keys.final(job), final.model_dump_json().encode())
    except WriteConflict:
        log.info("finished elsewhere", job=str(job))
    log.info("finished", job=str(job), state=final.state, **final.counts.model_dump())
    if cancelled:
        # What a worker that was frozen has written since the records were counted; later ones take theirs back.
        late = (number for number in records.committed_numbers(storage, job) if number not in counted)
        storage.delete([keys.commit(job, number) for number in late])
    return True


def _final_job(control: Control, accepted: AcceptedJob, plan: Plan | None, counts: Counts, *, cancelled: bool) -> Job:
    job = JobId(accepted.tenant, accepted.id)
    progress = control.state.progress(job)
    total = plan.results if plan else 0
    counts = counts.model_copy(update={"total": total, "cancelled": total - counts.done if cancelled else 0})
    started = datetime.fromtimestamp(progress.started_at, UTC) if progress and progress.started_at else None
    finished = datetime.now(UTC)
    kept = control.settings.retention_days
    busy = max((finished - started).total_seconds(), 1e-3) if started else None
    return Job(
        id=job.job,
        state="cancelled" if cancelled and total == 0 else job_state(counts, started=True),
        done=True,
        progress=1.0,
        counts=counts,
        started_at=started,
        finished_at=finished,
        expires_at=None if kept is None else finished + timedelta(days=kept),
        items_per_second=round(plan.items / busy, 3) if plan and busy and not cancelled else None,
        error=plan.error if plan else None,
        **summary(accepted) | {"map": map_status(control.storage, job, cancelled=cancelled)},
    )
