"""Plan, feed, sweep: what the control worker does. Each may run twice, or at once, without harm."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from uuid import uuid4

import structlog

from heatmill import keys, records
from heatmill.catalogue import Catalogue
from heatmill.dispatch import EXPLAIN_QUEUE, PRIORITY_STEPS, Dispatcher, lists
from heatmill.errors import ClaimLost, JobDeleted, Overtaken, SourceUnreadable
from heatmill.image_types import IMAGE_TYPES, NO_TABLES
from heatmill.image_uris import SourceRules, UriRefused
from heatmill.job_progress import JobProgress
from heatmill.keys import JobId
from heatmill.planning import MAX_JOB_ITEMS, ListItems, as_problem, new_plan, store_plan, write_plan
from heatmill.registering import register
from heatmill.schemas import AcceptedJob, Item, Plan
from heatmill.settings import Settings
from heatmill.state import LAST_TURN, RedisJobStore
from heatmill.storage import AccessRefused, BucketMissing, ObjectMissing, S3Storage
from heatmill_workers import sweeping
from heatmill_workers.sources import Listing, items_of

PLANNER = "planner"
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
        if progress.to_send > 0:
            waiting[job] = progress
    # What was sent again while no worker took anything lies in the queue twice.
    outstanding = max(outstanding, state.waiting(lists(EXPLAIN_QUEUE)))
    _send(control, waiting, control.settings.window_shards - outstanding, turns)


def is_complete(progress: JobProgress) -> bool:
    """Whether nothing will be committed any more."""
    if progress.cancelled:
        return progress.working == 0
    return progress.shards is not None and progress.committed >= progress.shards + progress.makes_map


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


def _send(control: Control, waiting: dict[JobId, JobProgress], capacity: int, turns: dict[str, int]) -> None:
    def urgency(job: JobId) -> tuple[int, int, int]:
        step = PRIORITY_STEPS[waiting[job].summary["priority"]]
        return step, turns.get(f"{job.tenant}/", 0), turns.get(str(job), 0)

    left = Counter({job: progress.to_send for job, progress in waiting.items()})
    while capacity > 0 and waiting:
        job = min(waiting, key=urgency)
        shard = control.state.take(job, control.settings.queue_patience_seconds, turns.get(LAST_TURN, 0))
        if shard is None:
            del waiting[job]
            continue
        control.dispatcher.explain(job, shard, waiting[job].summary["priority"])
        turns[LAST_TURN] = turns[f"{job.tenant}/"] = turns[str(job)] = turns.get(LAST_TURN, 0) + 1
        capacity -= 1
        left[job] -= 1
        if not left[job]:
            del waiting[job]
    # A POST of one shard must not jump ahead of these; where feeds cease, it need not wait for them.
    priorities = {progress.summary["priority"] for progress in waiting.values()}
    waited_for: dict[str, bool] = {priority: priority in priorities for priority in PRIORITY_STEPS}
    control.state.note_turns(waited_for, 2 * control.settings.timer_seconds)


def _write_plan(control: Control, job: JobId, accepted: AcceptedJob, token: str) -> Plan:
    settings = control.settings
    rules = SourceRules(job.tenant, settings.source_prefixes, settings.bucket)
    still_wanted = partial(_still_wanted, control, job, token)
    list_items = items_of(Listing(control.storage, rules, control.catalogue, still_wanted), accepted)

    def watched(after: Item | None) -> Iterator[Item]:
        items = list_items(after)
        for item in _not_empty(items, accepted) if after is None else items:
            if item.index >= MAX_JOB_ITEMS:
                raise SourceUnreadable(f"the source lists more than {MAX_JOB_ITEMS:,} items")
            if item.index % accepted.shard_items == 0:
                still_wanted()
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


def _not_empty(items: Iterator[Item], accepted: AcceptedJob) -> Iterator[Item]:
    first = next(items, None)
    if first is None:
        source = accepted.request.source
        told = ""
        if source is not None and source.failed_of is None and source.resolved_format == "prefix":
            told = f": no key below {source.uri[:200]} ends in {', '.join(sorted(IMAGE_TYPES))}; read are {NO_TABLES}"
        raise SourceUnreadable(f"the source lists no images{told}")
    return chain([first], items)


def _failed_plan(accepted: AcceptedJob, error: Exception) -> Plan:
    """The plan of a job whose source cannot be listed: no shards, and the reason."""
    reason = error if isinstance(error, SourceUnreadable) else SourceUnreadable(str(error))
    return new_plan(accepted.request, shards=0, items=0, results=0, error=as_problem(reason))
