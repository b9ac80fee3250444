"""One shard, start to commit: claim, fetch and decode ahead, explain, render and store behind, write the record."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    TransientError,
)
from heatmill.image_uris import SourceRules, uris_in
from heatmill.images import ImageLimits
from heatmill.keys import JobId
from heatmill.planning import lost_items
from heatmill.schemas import CommitHeader, Item, Plan, Row
from heatmill.settings import Settings
from heatmill.state import Claim
from heatmill.storage import ObjectMissing, S3Storage
from heatmill_workers.cache import ResultCache
from heatmill_workers.claims import ClaimedShard, HeldShard, held
from heatmill_workers.committing import commit
from heatmill_workers.crashes import CrashWatch
from heatmill_workers.mapping import MapWork, give_up, make_map
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.outputs import Layout, ShardOutputs, SingleObjects
from heatmill_workers.prepare import Photos
from heatmill_workers.result_cache.key import ResultFingerprint
from heatmill_workers.rows import Answer, Outcome, explain_items, failed_rows
from heatmill_workers.shard_tar import ShardTar
from heatmill_workers.stages import Behind, ahead, groups
from heatmill_workers.worker import Worker
from heatmill_workers.writing import ResultWriter

RETRY_SECONDS = 5.0
# Images that go to the explainers together; they cut them into batches that fit the device. At most a quarter of a
# shard, since a cancel is noticed between groups.
GROUP_ITEMS = 16
LEAST_GROUPS = 4
# Groups that are decoded while the device works on another, and that are stored behind it.
GROUPS_AHEAD = 2
GROUPS_BEHIND = 2
STORE_THREADS = 8
# Far more than may decode: what is known of an image costs the store's time only, three calls for each result.
PREPARE_THREADS = 16
# A shorter time says little of how slow a model is.
PACE_SECONDS = 0.5

log = structlog.get_logger()


@dataclass(frozen=True)
class _Work:
    """What a claimed shard asks for."""

    shard: ClaimedShard
    plan: Plan
    items: tuple[Item, ...]

    def open_layout(self, storage: S3Storage) -> Layout:
        """Takes its results."""
        outputs = ShardOutputs(self.shard.job, self.shard.number, self.items[0].index)
        return (SingleObjects if self.plan.layout == "objects" else ShardTar)(storage, outputs)


def process_shard(worker: Worker, job: JobId, number: int) -> None:
    """Process a shard once, however often it is delivered.

    A shard that is committed, held by another worker, cancelled or unknown is left alone. A fault of the
    infrastructure gives the shard back uncounted.
    """
    claim = worker.state.claim(job, number, uuid4().hex, worker.settings.claim_seconds)
    if not isinstance(claim, Claim):
        log.info("left alone", reason=claim)
        return
    shard = ClaimedShard(job, number, claim)
    try:
        with held(worker.state, shard, worker.settings.claim_seconds) as ours:
            # A worker that died between its commit record and telling Redis left the whole answer behind.
            header = records.load_header(worker.storage, job, number) or _explain(worker, shard, ours)
    except ClaimLost as error:
        log.info("given up", reason=str(error))
        _give_back(worker, shard, 0.0)
    except TransientError as error:
        log.warning("put off", error=str(error))
        _give_back(worker, shard, RETRY_SECONDS)
    except MachineError as error:
        log.error("this machine cannot do it", error=str(error), attempt=shard.claim.attempt)  # noqa: TRY400 - no trace
        _give_back(worker, shard, RETRY_SECONDS, counts=True)
    else:
        _tell(worker, job, header)


def _give_back(worker: Worker, shard: ClaimedShard, retry_seconds: float, *, counts: bool = False) -> None:
    """End the claim, where it is still ours; where Redis is away, it runs out."""
    try:
        worker.state.clear_note(shard.job, shard.number)
        worker.state.release(shard.job, shard.number, shard.claim.token, retry_seconds, counts=counts)
        # A cancelled job waits for its last claim to end.
        worker.dispatcher.feed()
    except QueueUnavailable as error:
        log.warning("not given back", error=str(error))


def _tell(worker: Worker, job: JobId, header: CommitHeader) -> None:
    """Count the shard and ring feed; where Redis is away, the claim runs out and the record is found."""
    try:
        worker.state.commit(job, header.shard, header.succeeded, header.failed, header.cached)
        worker.dispatcher.feed()
    except QueueUnavailable as error:
        log.warning("commit not counted yet", error=str(error))


def _explain(worker: Worker, shard: ClaimedShard, ours: HeldShard) -> CommitHeader:
    started = time.monotonic()
    plan = _plan(worker, shard)
    if plan.makes_map and shard.number == plan.shards:
        return _map(worker, shard, ours, plan)
    work = _Work(shard, plan, _items(worker, shard, plan))
    rows, cache = _rows_or_errors(worker, work, ours)
    header = commit(worker, shard, ours, rows, time.monotonic() - started)
    counts = {"succeeded": header.succeeded, "failed": header.failed, "cached": header.cached}
    log.info("committed", **counts, seconds=header.seconds)
    # Before the job can end: whoever waits for that may submit the same images again. Rows of another worker are its
    # own to keep.
    if cache is not None and header.worker == worker.name:
        cache.keep(rows)
    return header


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


def _rows_or_errors(worker: Worker, work: _Work, ours: HeldShard) -> tuple[list[Row], ResultCache | None]:
    """All rows of a shard, and where to keep them. What stops all of its items, say the model, is each one's error."""
    reason: HeatmillError
    try:
        with work.open_layout(worker.storage) as layout:
            photos = _photos(worker, work, layout)
            return _rows(worker, work, ours, photos, layout), photos.cache
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
    failed = [row for item in work.items for row in failed_rows(item, work.plan, reason)]
    with work.open_layout(worker.storage) as layout:
        return layout.finish(layout.placed(failed)), None


def _map(worker: Worker, shard: ClaimedShard, ours: HeldShard, plan: Plan) -> CommitHeader:
    """The unit after the last shard: all features become one map, and a commit record without rows says so."""
    started = time.monotonic()
    work = MapWork(worker.storage, shard.job, plan, ours.check)
    if shard.claim.attempt > worker.settings.max_attempts:
        give_up(work, f"{worker.settings.max_attempts} workers failed while they made it")
    else:
        make_map(work)
    return commit(worker, shard, ours, [], time.monotonic() - started)


def _photos(worker: Worker, work: _Work, layout: Layout) -> Photos:
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


def _cache(worker: Worker, work: _Work, layout: Layout, model: LoadedModel) -> ResultCache:
    spec = worker.catalogue.model(work.plan.model).spec
    fingerprint = ResultFingerprint(worker.code, worker.settings, spec, model, work.plan)
    return ResultCache(worker.storage, layout, fingerprint)


def _rows(worker: Worker, work: _Work, ours: HeldShard, photos: Photos, layout: Layout) -> list[Row]:
    """The pipeline: photos are decoded ahead of the device, results are rendered and stored behind it."""
    writer = ResultWriter(worker.storage, layout, photos.model)
    rows: list[Row] = []
    with ThreadPoolExecutor(PREPARE_THREADS) as preparers, ThreadPoolExecutor(STORE_THREADS) as storers:
        group_items = min(GROUP_ITEMS, max(len(work.items) // LEAST_GROUPS, 1))
        size, depth = (1, 0) if photos.watch.is_suspicious else (group_items, GROUPS_AHEAD)
        stored: Behind[Answer, Row] = Behind(storers, writer.row, GROUPS_BEHIND)
        model = _with_pictures(work, photos, preparers)
        for group in ahead(preparers, photos.prepare, groups(work.items, size), depth):
            ours.check()
            started = time.monotonic()
            answers = list(explain_items(group, work.plan, model))
            _note_pace(worker, work, answers, time.monotonic() - started)
            rows += layout.placed(_in_order(stored.send(answers), work.plan))
        rows += layout.placed(_in_order(stored.finish(), work.plan))
    writer.store_features()
    return layout.finish(rows)


def _in_order(rows: list[Row], plan: Plan) -> list[Row]:
    """Rows of whole items, as they stand in the commit record."""
    order = [method.name for method in plan.methods] + ([plan.map.method] if plan.map else [])
    return sorted(rows, key=lambda row: (row.index, order.index(row.method), row.rank))


def _limits(settings: Settings) -> ImageLimits:
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels)


def _with_pictures(work: _Work, photos: Photos, preparers: ThreadPoolExecutor) -> LoadedModel:
    """The model, beside what the methods' params name by URI."""
    uris = sorted({uri for method in work.plan.methods for uri in uris_in(method.params).values()})
    return replace(photos.model, pictures=dict(zip(uris, preparers.map(photos.picture, uris), strict=True)))


def _note_pace(worker: Worker, work: _Work, answers: list[Answer], seconds: float) -> None:
    """Remember the seconds per pass, from which the next jobs' shards are cut; a guess that is lost does no harm.

    A short time may be the machine's mood, but that makes nothing faster: it counts where it is below what is known.
    """
    done = [(worker.catalogue.method(each.method.name).passes, each) for each in answers if isinstance(each, Outcome)]
    passes = sum(cost.of(each.method.params) for cost, each in done)
    if not passes or not all(cost.are_known(each.method.params) for cost, each in done):
        return
    try:
        if seconds >= PACE_SECONDS:
            worker.state.set_pace(work.plan.model, seconds / passes)
        else:
            worker.state.lower_pace(work.plan.model, seconds / passes, worker.settings.seconds_per_pass)
    except QueueUnavailable as error:
        log.warning("pace not noted", error=str(error))
