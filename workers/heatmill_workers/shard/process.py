"""One shard, start to commit: claim, fetch and decode ahead, explain, render and store behind, write the records."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Semaphore
from uuid import uuid4

import structlog

from heatmill.coordination.job_store import Claim
from heatmill.errors import (
    ClaimLost,
    ItemError,
    MachineError,
    QueueUnavailable,
    RecordDamaged,
    ShardUnfinished,
    StorageUnavailable,
    TransientError,
    Unconfirmed,
)
from heatmill.images import ImageLimits
from heatmill.images.source_uri import SourceRules
from heatmill.jobs import records
from heatmill.jobs.damaged import set_aside
from heatmill.jobs.planner import lost_items
from heatmill.schemas import Item, Plan
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing
from heatmill.storage.keys import JobId
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.machine_faults import machine_fault, raise_machine_fault
from heatmill_workers.job_maps.build import MapJob, make_map, record_failure
from heatmill_workers.outputs.layout import Layout
from heatmill_workers.result_cache.cache import ResultCache
from heatmill_workers.result_cache.key import ResultFingerprint
from heatmill_workers.shard.commit import ShardCommits
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.crash_guard import CrashGuard
from heatmill_workers.shard.explain import failed_rows
from heatmill_workers.shard.giving_back import (
    RETRY_SECONDS,
    Ending,
    give_back,
    give_back_for_machine,
    give_back_for_second_opinion,
    give_back_for_storage,
    give_back_unforeseen,
    note_done,
    proved_storage,
)
from heatmill_workers.shard.lease import ClaimedShard, ShardLease, hold_lease
from heatmill_workers.shard.model_at_hand import load_model
from heatmill_workers.shard.prefetch import Photos
from heatmill_workers.shard.run import explain_parts
from heatmill_workers.shard.second_opinion import SecondOpinion, confirm_map, confirm_shard, opinion_on_shard
from heatmill_workers.shard.work import ShardWork

log = structlog.get_logger()


def process_shard(worker: WorkerContext, job: JobId, number: int) -> Ending | None:
    """Process a shard once, however often it is delivered.

    A shard that is committed, held by another worker, cancelled or unknown is left alone. Parts of it that are
    committed are not done again. A fault of the infrastructure, or of this machine, gives the shard back uncounted.

    Returns:
        What is to end now, if anything: this process, or the worker.
    """
    claim = worker.state.claim(job, number, uuid4().hex, worker.settings.claim_seconds)
    if not isinstance(claim, Claim):
        log.info("left alone", reason=claim)
        return None
    shard = ClaimedShard(job, number, claim)
    try:
        _process(worker, shard)
    except Exception as error:  # noqa: BLE001 - the boundary: it tells whose fault it is, and commits nothing
        return _given_back(worker, shard, error)
    _ring_feed(worker)
    return None


def _process(worker: WorkerContext, shard: ClaimedShard) -> None:
    with hold_lease(worker.state, shard, worker.settings.claim_seconds) as lease:
        commits = ShardCommits(worker, shard, lease)
        commits.find()
        if not commits.is_whole:
            opinion = opinion_on_shard(worker, shard)
            opinion.leave_it_to_another()
            with proved_storage(worker, shard.job):
                _explain(worker, shard, lease, commits, opinion)
            commits.tell()
            note_done(worker, shard.job, opinion)


def _given_back(worker: WorkerContext, shard: ClaimedShard, error: Exception) -> Ending | None:
    """The one boundary: whatever ended the attempt, nothing is committed here."""
    if isinstance(error, (ClaimLost, ShardUnfinished)):
        log.info("given back", reason=str(error))
        # An attempt that committed parts is the first at what is left. As one that died it makes the next one careful.
        give_back(worker, shard, 0.0, counts=isinstance(error, ShardUnfinished) and error.goes_alone)
        return None
    if isinstance(error, Unconfirmed):
        return give_back_for_second_opinion(worker, shard, error)
    if isinstance(error, StorageUnavailable):
        give_back_for_storage(worker, shard, error)
        return None
    if isinstance(error, TransientError):
        log.warning("put off", error=str(error))
        give_back(worker, shard, RETRY_SECONDS)
        return None
    if (fault := machine_fault(error)) is not None:
        return give_back_for_machine(worker, shard, fault)
    give_back_unforeseen(worker, shard, error)
    return None


def _ring_feed(worker: WorkerContext) -> None:
    try:
        worker.dispatcher.feed()
    except QueueUnavailable as error:
        log.warning("feed not rung", error=str(error))


def _explain(
    worker: WorkerContext, shard: ClaimedShard, lease: ShardLease, commits: ShardCommits, opinion: SecondOpinion
) -> None:
    plan = _plan(worker, shard, opinion)
    if plan.makes_map and shard.number == plan.shards:
        _map(worker, shard, lease, plan, opinion)
        commits.tell(commits.write([(None, [])]))
        return
    _rows_or_errors(worker, ShardWork(shard, plan, _items(worker, shard, plan, opinion), lease, commits, opinion))


def _plan(worker: WorkerContext, shard: ClaimedShard, opinion: SecondOpinion) -> Plan:
    """The job's plan.

    Raises:
        ClaimLost: It is gone or damaged. Redis forgets the job, and what is not deleted is planned again by repair.
        Unconfirmed: It cannot be read here, and no second worker agrees yet.
    """
    plan = None
    with _lost_where_confirmed(opinion, "plan"):
        plan = records.load_plan(worker.storage, shard.job)
    if plan is None:
        worker.state.forget(shard.job)
        raise ClaimLost("there is no plan: the job was deleted, or is planned again")
    return plan


def _items(worker: WorkerContext, shard: ClaimedShard, plan: Plan, opinion: SecondOpinion) -> tuple[Item, ...]:
    """The shard's items; where their file is lost, what else is known of them."""
    with _lost_where_confirmed(opinion, "shard"):
        return records.load_shard(worker.storage, shard.job, shard.number)
    try:
        return lost_items(records.load_request(worker.storage, shard.job), plan, shard.number)
    except RecordDamaged as error:
        # Nothing says any more which items these were: without a plan the job ends.
        set_aside(worker.storage, RecordDamaged(keys.plan(shard.job), "its shards and its request are lost"))
        worker.state.forget(shard.job)
        raise ClaimLost("the request is lost as well") from error


@contextmanager
def _lost_where_confirmed(opinion: SecondOpinion, record: str) -> Iterator[None]:
    """Take a record for lost once two workers have found it missing or damaged.

    Raises:
        Unconfirmed: This one is the first.
    """
    try:
        yield
    except TransientError:
        # A bucket that is missing, say.
        raise
    except (ObjectMissing, RecordDamaged) as error:
        if not opinion.confirms([f"record {record}"]):
            raise Unconfirmed(f"the {record} cannot be read ({error}); a second worker is to try it") from error
        log.exception("a record is lost", record=record)


def _rows_or_errors(worker: WorkerContext, work: ShardWork) -> None:
    """Commit all parts of a shard. What stops all of its items, say the model, is the error of each that is left.

    Raises:
        TransientError: Nobody's fault, or nobody has confirmed whose.
        MachineError: The machine's.
    """
    try:
        with work.open_layout(worker.storage) as layout:
            explain_parts(worker, work, _photos(worker, work, layout), layout)
            return
    except ItemError as error:
        reason = error
    except (TransientError, MachineError):
        raise
    except Exception as error:  # noqa: BLE001 - raised again unless a second worker agrees
        raise_machine_fault(error)
        reason = confirm_shard(work.opinion, error)
    _fail_what_is_left(worker, work, reason)


def _fail_what_is_left(worker: WorkerContext, work: ShardWork, reason: ItemError) -> None:
    with work.open_layout(worker.storage) as layout:
        for part in work.parts_left():
            rows = [row for item in work.items_of(part) for row in failed_rows(item, work.plan, reason)]
            work.commits.tell(work.commits.write([(part, layout.finish(part, layout.with_locations(rows)))]))


def _map(worker: WorkerContext, shard: ClaimedShard, lease: ShardLease, plan: Plan, opinion: SecondOpinion) -> None:
    """The unit after the last shard: all features become one map. Its commit record has no rows."""
    work = MapJob(worker.storage, shard.job, plan, lease.check)
    if shard.claim.attempt > worker.settings.max_attempts:
        record_failure(work, f"{worker.settings.max_attempts} workers failed while they made it")
        return
    try:
        make_map(work)
    except (TransientError, MachineError):
        raise
    except Exception as error:  # noqa: BLE001 - raised again unless a second worker agrees
        record_failure(work, confirm_map(opinion, error))


def _photos(worker: WorkerContext, work: ShardWork, layout: Layout) -> Photos:
    """Where the shard's photos come from; loads the model."""
    settings, model_name = worker.settings, work.plan.model
    # Before the model is loaded: that may be what kills the worker.
    watch = CrashGuard(worker.state, work.shard, settings.max_attempts, work.opinion)
    model = load_model(worker, model_name)
    operators = worker.catalogue.model(model_name).operators
    return Photos(
        storage=worker.storage,
        rules=SourceRules(work.shard.job.tenant, settings.source_prefixes, settings.bucket, operators),
        limits=_limits(settings),
        model=model,
        watch=watch,
        decode_slots=Semaphore(settings.decode_threads),
        cache=_cache(worker, work, layout, model) if settings.result_cache else None,
        previews=layout.previews if work.plan.previews else None,
    )


def _cache(worker: WorkerContext, work: ShardWork, layout: Layout, model: LoadedModel) -> ResultCache:
    spec = worker.catalogue.model(work.plan.model).spec
    fingerprint = ResultFingerprint(worker.code, worker.settings, spec, model, work.plan)
    return ResultCache(worker.storage, layout, fingerprint)


def _limits(settings: Settings) -> ImageLimits:
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
