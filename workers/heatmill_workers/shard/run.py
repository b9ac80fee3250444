"""The run of one shard: decoded ahead of the device; rendered, stored and committed behind it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain

import structlog

from heatmill.coordination.throughput import lower_throughput, record_throughput
from heatmill.errors import QueueUnavailable, ShardUnfinished, Unconfirmed, UnknownMethod
from heatmill.images.source_uri import uris_in
from heatmill.jobs.parts import Part
from heatmill.schemas import Plan, Row
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.machine_faults import check_device
from heatmill_workers.outputs.layout import Layout
from heatmill_workers.shard.arriving import ArrivingRows
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.explain import Answer, Result, explain_items
from heatmill_workers.shard.overlap import BoundedWriter, groups, prefetch
from heatmill_workers.shard.prefetch import Photos
from heatmill_workers.shard.result_writer import ResultWriter
from heatmill_workers.shard.second_opinion import blaming, confirm_rows
from heatmill_workers.shard.time_budget import TimeBudget
from heatmill_workers.shard.work import ShardWork

# Images of one part that go to the methods together; they cut them into batches that fit the device.
GROUP_ITEMS = 16
# Groups that are decoded while the device works on another, and that are stored behind it.
GROUPS_AHEAD = 2
GROUPS_BEHIND = 2
STORE_THREADS = 8
# Far more than may decode: what is known of an image costs the store's time only, three calls for each result.
PREPARE_THREADS = 16
# A shorter time says little of how slow a model is.
PACE_SECONDS = 0.5

log = structlog.get_logger()


def explain_parts(worker: WorkerContext, work: ShardWork, photos: Photos, layout: Layout) -> None:
    """Explain and commit the parts of a shard that are not committed.

    Raises:
        ShardUnfinished: It ends before the last of them: its time is over, or the worker stops.
        ClaimLost: The shard is not ours any more.
        Unconfirmed: Items failed in a way that nobody foresaw, and no second worker agrees yet.
        MachineError: The machine fails.
    """
    writer = ResultWriter(worker.storage, layout, photos.model)
    arriving = _Arriving(worker, work, photos, writer, ArrivingRows(work.parts_left(), work.items[0].index))
    with ThreadPoolExecutor(PREPARE_THREADS) as preparers, ThreadPoolExecutor(STORE_THREADS) as storers:
        stored: BoundedWriter[Answer, Row] = BoundedWriter(storers, writer.row, GROUPS_BEHIND)
        try:
            for answers in _answers(worker, work, photos, preparers):
                arriving.add(stored.submit(answers))
                if work.commits.is_due:
                    arriving.commit()
        except ShardUnfinished:
            arriving.add(stored.finish())
            arriving.commit()
            raise
        arriving.add(stored.finish())
    arriving.commit()
    arriving.check_confirmed()


def _answers(
    worker: WorkerContext, work: ShardWork, photos: Photos, preparers: ThreadPoolExecutor
) -> Iterator[list[Answer]]:
    """Every group explained, while the photos of those after it are prepared.

    Raises:
        ShardUnfinished: The next group is not to be explained by this worker now.
    """
    budget = TimeBudget(worker.settings.shard_limit_seconds, worker.is_stopping)
    size, depth = (1, 0) if photos.watch.isolates_items else (GROUP_ITEMS, GROUPS_AHEAD)
    parts = [list(groups(work.items_of(part), size)) for part in work.parts_left()]
    first_groups = {part[0] for part in parts}
    model = _with_pictures(work, photos, preparers)
    grouped = list(chain.from_iterable(parts))
    for items, group in zip(grouped, prefetch(preparers, photos.prepare, grouped, depth), strict=True):
        if (reason := budget.reason_to_pause(begins_part=items in first_groups)) is not None:
            preparers.shutdown(wait=False, cancel_futures=True)
            raise ShardUnfinished(reason, goes_alone=photos.watch.isolates_items and budget.parts_done > 0)
        work.lease.check()
        worker.restart_time_limit()
        started = time.monotonic()
        with blaming(work.opinion, items):
            answers = list(explain_items(group, work.plan, model))
        _note_pace(worker, model, answers, time.monotonic() - started)
        yield answers


@dataclass(frozen=True)
class _Arriving:
    """What is stored of a shard, on its way into commit records.

    Args:
        unconfirmed: Why parts are not committed.
    """

    worker: WorkerContext
    work: ShardWork
    photos: Photos
    writer: ResultWriter
    rows: ArrivingRows
    unconfirmed: list[Unconfirmed] = field(default_factory=list)

    def add(self, rows: list[Row]) -> None:
        """Take rows of whole items."""
        self.rows.add(self.writer.layout.with_locations(_in_order(rows, self.work.plan)))

    def commit(self) -> None:
        """Commit the parts of which all rows have arrived, but for those whose failures nobody has confirmed."""
        # Rows of a device that has failed say nothing.
        check_device(self.photos.model.device)
        results = []
        for part, rows in self.rows.take_whole():
            if not self._is_confirmed(part, rows):
                continue
            self.writer.store_features(part)
            results.append((part, self.writer.layout.finish(part, rows)))
        headers = self.work.commits.write(results)
        # Before the job can end: whoever waits for that may submit the same images again. Rows of another worker are
        # its own to keep.
        for header, (_, rows) in zip(headers, results, strict=True):
            if header.worker == self.worker.name:
                self._keep(rows)
        self.work.commits.tell(headers)

    def _keep(self, rows: list[Row]) -> None:
        if self.photos.cache is None:
            return
        try:
            self.photos.cache.store(rows)
        except Exception:
            # What is committed stands, and the cache may be lost at any moment.
            log.exception("results not kept for later jobs")

    def check_confirmed(self) -> None:
        """Raise what keeps parts from being committed."""
        if self.unconfirmed:
            raise self.unconfirmed[0]

    def _is_confirmed(self, part: Part, rows: list[Row]) -> bool:
        try:
            confirm_rows(self.work.opinion, rows, self.work.items_of(part))
        except Unconfirmed as error:
            self.unconfirmed.append(error)
            return False
        return True


def _in_order(rows: list[Row], plan: Plan) -> list[Row]:
    """Rows of whole items, as they stand in the commit record."""
    order = [method.name for method in plan.methods] + ([plan.map.method] if plan.map else [])
    return sorted(rows, key=lambda row: (row.index, order.index(row.method), row.rank))


def _with_pictures(work: ShardWork, photos: Photos, preparers: ThreadPoolExecutor) -> LoadedModel:
    """The model, beside what the methods' params name by URI."""
    uris = sorted({uri for method in work.plan.methods for uri in uris_in(method.params).values()})
    return replace(photos.model, pictures=dict(zip(uris, preparers.map(photos.picture, uris), strict=True)))


def _note_pace(worker: WorkerContext, model: LoadedModel, answers: list[Answer], seconds: float) -> None:
    """Remember the seconds per pass, from which the next jobs' shards are cut; a guess that is lost does no harm.

    A short time may be the machine's mood, but that makes nothing faster: it counts where it is below what is known.
    """
    passes = _passes(worker, answers)
    if not passes:
        return
    device = model.device.type
    try:
        if seconds >= PACE_SECONDS:
            record_throughput(worker.state, model.name, device, seconds / passes)
        else:
            assumed = worker.settings.seconds_per_pass
            lower_throughput(worker.state, model.name, device, seconds / passes, assumed)
    except QueueUnavailable as error:
        log.warning("pace not noted", error=str(error))


def _passes(worker: WorkerContext, answers: list[Answer]) -> float:
    """What the answers cost, in forward passes; 0 where that is not the same for every image, or not known here."""
    done = [each.method for each in answers if isinstance(each, Result)]
    try:
        costs = [(worker.catalogue.method(method.name).passes, method.params) for method in done]
        return (
            sum(cost.estimate(params) for cost, params in costs)
            if all(cost.is_fixed(of) for cost, of in costs)
            else 0.0
        )
    except (UnknownMethod, LookupError, TypeError, ValueError) as error:
        # This worker's catalogue lacks the method, or has another version of it. That says nothing of the results.
        log.warning("pace not known", error=str(error))
        return 0.0
