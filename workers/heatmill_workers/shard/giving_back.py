"""What a worker does with a shard that it cannot finish: whose fault that is decides who tries next, and when."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from heatmill.coordination.conditions import (
    clear_condition,
    note_condition,
    note_fit,
    note_unfit,
    waits_for_storage,
)
from heatmill.coordination.live_workers import others_live
from heatmill.coordination.rests import count_end, end_rests, is_first_lack
from heatmill.errors import MachineError, QueueUnavailable, StorageUnavailable, Unconfirmed
from heatmill.storage.keys import JobId
from heatmill.storage.write_trial import try_write
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.lease import ClaimedShard
from heatmill_workers.shard.second_opinion import SecondOpinion

RETRY_SECONDS = 5.0
# Where each attempt is in vain, say on a store that takes small objects only: twice as long each time.
LONGEST_RETRY_SECONDS = 300.0
# A worker that has just failed on a shard is idle first: time for another one to take it.
SECOND_TRY_SECONDS = 2.0
# For the same reason, where a worker goes on that lacks a model.
LACK_PAUSE_SECONDS = 1.0

log = structlog.get_logger()


class ResultsRefused(StorageUnavailable):
    """The object store took what was written to try it, and not what was explained then."""


@dataclass(frozen=True)
class WorkerEnds:
    """The worker is to take nothing more, and to end: its machine cannot do the work."""

    reason: str


@dataclass(frozen=True)
class ProcessEnds:
    """A fresh process of this worker is to try again."""

    reason: str


Ending = WorkerEnds | ProcessEnds


def give_back(worker: WorkerContext, shard: ClaimedShard, retry_seconds: float, *, counts: bool = False) -> None:
    """End the claim, where it is still ours; where Redis is away, it runs out. `counts` is rare: see `release`."""
    try:
        worker.state.clear_mark(shard.job, shard.number)
        worker.state.release(shard.job, shard.number, shard.claim.token, retry_seconds, counts=counts)
        # A cancelled job waits for its last claim to end.
        worker.dispatcher.feed()
    except QueueUnavailable as error:
        log.warning("not given back", error=str(error))


def give_back_for_storage(worker: WorkerContext, shard: ClaimedShard, error: StorageUnavailable) -> None:
    """The store takes nothing: the job waits, and says for what.

    The next attempt proves first that something can be written, which costs no device time. What was explained in vain
    after such a proof is counted.
    """
    log.warning("put off", error=str(error))
    detail, counted = f"{worker.witness.worker}: {error}", isinstance(error, ResultsRefused)
    try:
        failures = note_condition(worker.state, shard.job, detail, "waiting_for_storage", int(counted))
    except QueueUnavailable as unavailable:
        log.warning("the reason is not noted", error=str(unavailable))
        failures = 1
    give_back(worker, shard, _longer_each_time(failures) if counted else RETRY_SECONDS)


@contextmanager
def proved_storage(worker: WorkerContext, job: JobId) -> Iterator[None]:
    """Explain only where the store takes something, of a job of which it took nothing lately.

    Raises:
        StorageUnavailable: It still takes nothing.
        ResultsRefused: It takes something, and not the results.
    """
    waits = waits_for_storage(worker.state, job)
    if waits:
        try_write(worker.storage, job.prefix)
    try:
        yield
    except StorageUnavailable as error:
        if waits:
            raise ResultsRefused(str(error)) from error
        raise


def give_back_for_machine(worker: WorkerContext, shard: ClaimedShard, error: MachineError) -> WorkerEnds | None:
    """The machine is at fault: another one may do it at once, and this worker ends.

    A worker that lacks one model, and was started again for it before, goes on with others.
    """
    note_reason(worker, shard.job, f"{worker.witness.worker}: {error}")
    ends = _has_to_end(worker, error)
    give_back(worker, shard, 0.0 if ends else RETRY_SECONDS)
    if ends:
        return WorkerEnds(str(error))
    log.warning("left to other workers", lacks=error.lacks, reason=str(error))
    time.sleep(LACK_PAUSE_SECONDS)
    return None


def give_back_for_second_opinion(worker: WorkerContext, shard: ClaimedShard, error: Unconfirmed) -> ProcessEnds | None:
    """A failure that another worker is to confirm, or a fresh process where there is no other."""
    log.warning("a second opinion is asked for", reason=str(error))
    note_reason(worker, shard.job, f"{worker.witness.worker}: {error}")
    others_live = _others_live(worker)
    give_back(worker, shard, SECOND_TRY_SECONDS if others_live else 0.0)
    return None if others_live else ProcessEnds(str(error))


def give_back_unforeseen(worker: WorkerContext, shard: ClaimedShard, error: Exception) -> None:
    """A failure that no item, machine or store is known to be at fault for: tried again, ever more rarely."""
    log.error("given back after a failure that nobody foresaw", exc_info=error)
    told = f"{worker.witness.worker}: {type(error).__name__}; the worker's log has the trace"
    give_back(worker, shard, _longer_each_time(note_reason(worker, shard.job, told)))


def note_reason(worker: WorkerContext, job: JobId, detail: str) -> int:
    """Let whoever asks for the job know why it stands still; returns how many times in a row it did."""
    try:
        return note_condition(worker.state, job, detail)
    except QueueUnavailable as error:
        log.warning("the reason is not noted", error=str(error))
        return 1


def note_done(worker: WorkerContext, job: JobId, opinion: SecondOpinion) -> None:
    """Forget what stood in the way of a shard that is done."""
    try:
        opinion.drop()
        clear_condition(worker.state, job)
        note_fit(worker.state, worker.witness.worker)
        end_rests(worker.state, worker.witness.worker)
    except QueueUnavailable as error:
        log.warning("the reasons are not forgotten", error=str(error))


def _longer_each_time(failures: int) -> float:
    return min(RETRY_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_RETRY_SECONDS)


def _has_to_end(worker: WorkerContext, error: MachineError) -> bool:
    place = worker.witness.worker
    try:
        if error.lacks is not None:
            return is_first_lack(worker.state, place, error.lacks)
        note_unfit(worker.state, place, str(error))
        count_end(worker.state, place)
    except QueueUnavailable as unavailable:
        log.warning("the reason is not noted", error=str(unavailable))
    return True


def _others_live(worker: WorkerContext) -> bool:
    try:
        return others_live(worker.state, worker.witness.worker)
    except QueueUnavailable:
        # Who lives is not known: nobody is asked to end.
        return True
