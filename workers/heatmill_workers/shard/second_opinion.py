"""Failures of one shard that nobody foresaw: they stand when a second, different worker has seen them too.

Where only one worker lives, a fresh process of it counts as the second. Whoever has a doubt gives the shard back; what
another worker does without a fault refutes it.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import structlog

from heatmill.coordination.doubts import (
    SHARD_SECONDS,
    Doubt,
    Witness,
    doubts_of_shard,
    drop_doubts,
    note_doubts,
    read_doubts,
)
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.live_workers import others_live
from heatmill.errors import DeviceUnusable, InternalError, MemoryExhausted, Unconfirmed, WorkerCrashed
from heatmill.images.decode import NEEDS_MORE_MEMORY
from heatmill.schemas import Item, Problem, Row
from heatmill_workers.engine.machine_faults import machine_fault
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.lease import ClaimedShard

WHOLE_SHARD = "shard"
# The process, by itself, since its device or its memory failed.
ENDED = "ended"
# Error rows that may be this worker's own fault: another version, a broken library, a bug that needs its state.
DOUBTFUL = ("/internal_error", "/invalid_request")

log = structlog.get_logger()


class SecondOpinion:
    """What workers have seen of a shard's failures.

    Args:
        state: Redis.
        name: Redis key of the doubts.
        witness: This process.
        patience_seconds: How long another worker has to try before a fresh process of this one may.
        kept_seconds: How long Redis keeps the doubts.
    """

    def __init__(
        self,
        state: RedisJobStore,
        name: str,
        witness: Witness,
        patience_seconds: float,
        kept_seconds: int = SHARD_SECONDS,
    ) -> None:
        self._state, self._name, self._witness = state, name, witness
        self._patience_seconds, self._kept_seconds = patience_seconds, kept_seconds
        self._doubts = read_doubts(state, name)

    @property
    def suspects_items(self) -> bool:
        """Whether one of the shard's items may be why a worker has ended."""
        return any(doubt.subject.startswith(ENDED) for doubt in self._doubts)

    @property
    def is_mine(self) -> bool:
        """Whether this very process has a doubt already."""
        return any(doubt.witness == self._witness for doubt in self._doubts)

    def check(self, item: Item) -> None:
        """Refuse an item over which two workers have ended.

        Raises:
            WorkerCrashed: It is one.
        """
        if self.suspects_items and self.is_agreed(_ended_over(item)):
            raise WorkerCrashed(f"the device or the memory of two workers failed while they processed item {item.id!r}")

    def leave_it_to_another(self) -> None:
        """Do not try again what failed here, while others may.

        Raises:
            Unconfirmed: It is another's turn, or that of a fresh process.
        """
        mine = [doubt for doubt in self._doubts if doubt.witness.worker == self._witness.worker]
        if not mine or any(doubt.witness.worker != self._witness.worker for doubt in self._doubts):
            return
        if any(doubt.witness.process == self._witness.process for doubt in mine) or self._others_have_time(mine):
            raise Unconfirmed("it failed here before; another worker, or a fresh process, is to try it")

    def confirms(self, subjects: Collection[str]) -> frozenset[str]:
        """Note that these failed here, and tell which of them stand."""
        if not subjects:
            return frozenset()
        note_doubts(self._state, self._name, sorted(subjects), self._witness, self._kept_seconds)
        self._doubts = read_doubts(self._state, self._name)
        return frozenset(subject for subject in subjects if self.is_agreed(subject))

    def is_agreed(self, subject: str) -> bool:
        """Whether two workers have seen this, or two processes of one that has been alone."""
        seen = [doubt for doubt in self._doubts if doubt.subject == subject]
        pairs = list(combinations([doubt.witness for doubt in seen], 2))
        if any(one.worker != other.worker for one, other in pairs):
            return True
        return any(one.process != other.process for one, other in pairs) and not self._others_have_time(seen)

    def drop(self) -> None:
        """The shard is done."""
        if self._doubts:
            drop_doubts(self._state, self._name)

    def _others_have_time(self, seen: Sequence[Doubt]) -> bool:
        is_late = time.time() - min(doubt.seen_at for doubt in seen) > self._patience_seconds
        return not is_late and others_live(self._state, self._witness.worker)


def opinion_on_shard(worker: WorkerContext, shard: ClaimedShard) -> SecondOpinion:
    """What workers have seen of a shard."""
    name = doubts_of_shard(shard.job, shard.number)
    return SecondOpinion(worker.state, name, worker.witness, worker.settings.shard_limit_seconds)


def confirm_rows(opinion: SecondOpinion, rows: Sequence[Row], items: Sequence[Item]) -> None:
    """Let rows pass that may be committed.

    Args:
        opinion: On the shard.
        rows: That are to be committed.
        items: Their items; one that had failed before it was sent is no doubt.

    Raises:
        Unconfirmed: Some failed in a way that nobody foresaw, and no second worker agrees.
    """
    failed_before = {item.index for item in items if item.error is not None}
    doubtful = {
        f"item {row.index}"
        for row in rows
        if row.error is not None and _is_doubtful(row.error) and row.index not in failed_before
    }
    if left := doubtful - opinion.confirms(doubtful):
        raise Unconfirmed(f"{len(left)} of {len(items)} items failed unforeseen; a second worker is to try them")


def confirm_shard(opinion: SecondOpinion, error: Exception) -> InternalError:
    """What each item of a shard fails with that failed as a whole.

    Raises:
        Unconfirmed: No second worker agrees.
    """
    log.error("shard failed", exc_info=error)
    if not opinion.confirms([WHOLE_SHARD]):
        raise Unconfirmed(
            f"the shard failed unforeseen ({type(error).__name__}); a second worker is to try it"
        ) from error
    return InternalError(f"heatmill failed on this shard: {type(error).__name__}; the worker's log has the trace")


def confirm_map(opinion: SecondOpinion, error: Exception) -> str:
    """Why there will be no map of a job.

    Raises:
        Unconfirmed: No second worker agrees.
        MachineError: The machine is at fault; its memory only where no second worker agrees.
    """
    fault = machine_fault(error)
    if fault is not None and not (isinstance(fault, MemoryExhausted) and opinion.confirms([ENDED])):
        raise fault from error
    return str(fault) if fault is not None else confirm_shard(opinion, error).args[0]


@contextmanager
def blaming(opinion: SecondOpinion, items: Sequence[Item]) -> Iterator[None]:
    """Remember which items were at work when the device failed or memory ended, which ends the process.

    One image may be the cause: where it is, the same happens to a second worker.
    """
    try:
        yield
    except Exception as error:
        if isinstance(machine_fault(error), (DeviceUnusable, MemoryExhausted)):
            opinion.confirms([_ended_over(items[0]) if len(items) == 1 else ENDED])
        raise


def _is_doubtful(error: Problem) -> bool:
    return error.type.endswith(DOUBTFUL) or error.detail == NEEDS_MORE_MEMORY


def _ended_over(item: Item) -> str:
    return f"{ENDED} over item {item.index}"
