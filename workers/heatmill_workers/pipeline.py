"""One shard, start to commit: claim, fetch and decode ahead, explain, render and store behind, write the records."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Semaphore
from uuid import uuid4

import structlog

from heatmill import records
from heatmill.errors import (
    ClaimLost,
    HeatmillError,
    InternalError,
    ItemError,
    MachineError,
    QueueUnavailable,
    ShardUnfinished,
    TransientError,
)
from heatmill.image_uris import SourceRules
from heatmill.images import ImageLimits
from heatmill.keys import JobId
from heatmill.planning import lost_items
from heatmill.schemas import Item, Plan
from heatmill.settings import Settings
from heatmill.state import Claim
from heatmill.storage import ObjectMissing
from heatmill_workers.cache import ResultCache
from heatmill_workers.claims import ClaimedShard, HeldShard, held
from heatmill_workers.committing import ShardCommits
from heatmill_workers.crashes import CrashWatch
from heatmill_workers.mapping import MapWork, give_up, make_map
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.outputs import Layout
from heatmill_workers.prepare import Photos
from heatmill_workers.result_cache.key import ResultFingerprint
from heatmill_workers.rows import failed_rows
from heatmill_workers.shard.run import explain_parts
from heatmill_workers.shard.work import ShardWork
from heatmill_workers.worker import Worker

RETRY_SECONDS = 5.0

log = structlog.get_logger()


def process_shard(worker: Worker, job: JobId, number: int) -> None:
    """Process a shard once, however often it is delivered.

    A shard that is committed, held by another worker, cancelled or unknown is left alone. Parts of it that are
    committed are not done again. A fault of the infrastructure gives the shard back uncounted.
    """
    claim = worker.state.claim(job, number, uuid4().hex, worker.settings.claim_seconds)
    if not isinstance(claim, Claim):
        log.info("left alone", reason=claim)
        return
    shard = ClaimedShard(job, number, claim)
    try:
        with held(worker.state, shard, worker.settings.claim_seconds) as ours:
            commits = ShardCommits(worker, shard, ours)
            commits.find()
            if not commits.is_whole:
                _explain(worker, shard, ours, commits)
                commits.tell()
    except (ClaimLost, ShardUnfinished) as error:
        log.info("given back", reason=str(error))
        _give_back(worker, shard, 0.0)
    except TransientError as error:
        log.warning("put off", error=str(error))
        _give_back(worker, shard, RETRY_SECONDS)
    except MachineError as error:
        log.error("this machine cannot do it", error=str(error), attempt=shard.claim.attempt)  # noqa: TRY400 - no trace
        _give_back(worker, shard, RETRY_SECONDS, counts=True)
    else:
        _ring_feed(worker)


def _give_back(worker: Worker, shard: ClaimedShard, retry_seconds: float, *, counts: bool = False) -> None:
    """End the claim, where it is still ours; where Redis is away, it runs out."""
    try:
        worker.state.clear_note(shard.job, shard.number)
        worker.state.release(shard.job, shard.number, shard.claim.token, retry_seconds, counts=counts)
        # A cancelled job waits for its last claim to end.
        worker.dispatcher.feed()
    except QueueUnavailable as error:
        log.warning("not given back", error=str(error))


def _ring_feed(worker: Worker) -> None:
    try:
        worker.dispatcher.feed()
    except QueueUnavailable as error:
        log.warning("feed not rung", error=str(error))


def _explain(worker: Worker, shard: ClaimedShard, ours: HeldShard, commits: ShardCommits) -> None:
    plan = _plan(worker, shard)
    if plan.makes_map and shard.number == plan.shards:
        _map(worker, shard, ours, plan)
        commits.tell(commits.write([(None, [])]))
        return
    _rows_or_errors(worker, ShardWork(shard, plan, _items(worker, shard, plan), ours, commits))


def _plan(worker: Worker, shard: ClaimedShard) -> Plan:
    """The job's plan.

    Raises:
        ClaimLost: It is gone or damaged. Redis forgets the job, and what is not deleted is planned again by repair.
    """
    plan = None
    with _for_the_last_time(worker, shard, "plan"):
        plan = records.load_plan(worker.storage, shard.job)
    if plan is None:
        worker.state.forget(shard.job)
        raise ClaimLost("there is no plan: the job was deleted, or is planned again")
    return plan


def _items(worker: Worker, shard: ClaimedShard, plan: Plan) -> tuple[Item, ...]:
    """The shard's items; where their file is lost, what else is known of them."""
    with _for_the_last_time(worker, shard, "shard"):
        return records.load_shard(worker.storage, shard.job, shard.number)
    return lost_items(records.load_request(worker.storage, shard.job), plan, shard.number)


@contextmanager
def _for_the_last_time(worker: Worker, shard: ClaimedShard, record: str) -> Iterator[None]:
    """Take a record for lost once it was neither there nor readable on as many attempts as may die.

    Before, the attempt dies of it: the record may be of a newer heatmill, which another worker is.
    """
    try:
        yield
    except (ObjectMissing, ValueError):
        if shard.claim.attempt < worker.settings.max_attempts:
            raise
        log.exception("a record is lost", record=record)


def _rows_or_errors(worker: Worker, work: ShardWork) -> None:
    """Commit all parts of a shard. What stops all of its items, say the model, is the error of each that is left."""
    reason: HeatmillError
    try:
        with work.open_layout(worker.storage) as layout:
            explain_parts(worker, work, _photos(worker, work, layout), layout)
            return
    except ItemError as error:
        reason = error
    except TransientError:
        raise
    except MachineError as error:
        # Another machine may be able to, until as many attempts have failed as may die.
        if work.shard.claim.attempt < worker.settings.max_attempts:
            raise
        reason = error
    except Exception as error:
        log.exception("shard failed")
        reason = InternalError(f"heatmill failed on this shard: {type(error).__name__}; the worker's log has the trace")
    _fail_what_is_left(worker, work, reason)


def _fail_what_is_left(worker: Worker, work: ShardWork, reason: HeatmillError) -> None:
    with work.open_layout(worker.storage) as layout:
        for part in work.parts_left():
            rows = [row for item in work.items_of(part) for row in failed_rows(item, work.plan, reason)]
            work.commits.tell(work.commits.write([(part, layout.finish(part, layout.placed(rows)))]))


def _map(worker: Worker, shard: ClaimedShard, ours: HeldShard, plan: Plan) -> None:
    """The unit after the last shard: all features become one map. Its commit record has no rows."""
    work = MapWork(worker.storage, shard.job, plan, ours.check)
    if shard.claim.attempt > worker.settings.max_attempts:
        give_up(work, f"{worker.settings.max_attempts} workers failed while they made it")
    else:
        make_map(work)


def _photos(worker: Worker, work: ShardWork, layout: Layout) -> Photos:
    """Where the shard's photos come from; loads the model."""
    settings, model_name = worker.settings, work.plan.model
    # Before the model is loaded: that may be what kills the worker.
    watch = CrashWatch(worker.state, work.shard, settings.max_attempts)
    model = worker.models.get(model_name)
    operators = worker.catalogue.model(model_name).operators
    return Photos(
        storage=worker.storage,
        rules=SourceRules(work.shard.job.tenant, settings.source_prefixes, settings.bucket, operators),
        limits=_limits(settings),
        model=model,
        watch=watch,
        turn=Semaphore(settings.decode_threads),
        cache=_cache(worker, work, layout, model) if settings.result_cache else None,
    )


def _cache(worker: Worker, work: ShardWork, layout: Layout, model: LoadedModel) -> ResultCache:
    spec = worker.catalogue.model(work.plan.model).spec
    fingerprint = ResultFingerprint(worker.code, worker.settings, spec, model, work.plan)
    return ResultCache(worker.storage, layout, fingerprint)


def _limits(settings: Settings) -> ImageLimits:
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
