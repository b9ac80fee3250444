"""The last step of a part of a shard: its commit record, written once, and not after the job's end."""

import time
from collections.abc import Iterable, Sequence

import structlog

from heatmill.coordination.shard_set import CommittedTotals
from heatmill.errors import ClaimLost, QueueUnavailable, RecordDamaged
from heatmill.jobs import records
from heatmill.jobs.damaged import set_aside
from heatmill.jobs.parts import Part
from heatmill.schemas import CommitHeader, Job, Row
from heatmill.storage import keys
from heatmill.storage.bucket import WriteConflict
from heatmill.storage.keys import CommitName, ShardId
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.lease import ClaimedShard, ShardLease

# Parts that are done within so short a time are committed together: for each time the store is asked twice.
TOGETHER_SECONDS = 0.5

log = structlog.get_logger()


class ShardCommits:
    """The commit records of one shard, those of earlier attempts too."""

    def __init__(self, worker: WorkerContext, shard: ClaimedShard, lease: ShardLease) -> None:
        self._worker, self._shard, self._lease = worker, shard, lease
        self._since = time.monotonic()
        self._headers: list[CommitHeader] = []
        self._untold: list[CommitHeader] = []

    @property
    def is_due(self) -> bool:
        """Whether the last commit is long enough ago for another."""
        return time.monotonic() - self._since >= TOGETHER_SECONDS

    @property
    def is_whole(self) -> bool:
        """Whether all of the shard is committed."""
        return records.is_whole(self._headers)

    def find(self) -> None:
        """Look for what is committed. A worker that died between a record and telling Redis left that undone.

        Raises:
            StorageUnavailable: The store does not answer.
        """
        job, storage = self._shard.job, self._worker.storage
        names = records.shard_names(storage, job, self._shard.number)
        self.tell([header for header in map(self._stored, names) if header is not None])

    def left(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        """Those parts that are not committed."""
        done = {header.part for header in self._headers}
        return tuple(part for part in parts if part.number not in done)

    def write(
        self, results: Sequence[tuple[Part | None, list[Row]]] | Sequence[tuple[Part, list[Row]]]
    ) -> list[CommitHeader]:
        """Write commit records, last; where another worker was first, its record stands. Redis is told by `tell`.

        Args:
            results: Parts and all their rows; None is the whole shard.

        Raises:
            ClaimLost: The shard is not ours any more, or the job has ended without it.
        """
        if not results:
            return []
        # Redis, where it has forgotten a cancelled job that is over, cannot say so; a POST that came late may have made
        # it known again.
        if self._worker.storage.exists(keys.final(self._shard.job)):
            self._worker.state.forget(self._shard.job)
            raise ClaimLost("the job has ended without this shard")
        seconds = (time.monotonic() - self._since) / len(results)
        self._since = time.monotonic()
        headers = [self._write(part, rows, seconds) for part, rows in results]
        self._take_back_if_late(headers)
        return headers

    def tell(self, headers: Iterable[CommitHeader] = ()) -> None:
        """Count what is committed; where Redis is away, the claim runs out and the records are found."""
        found = list(headers)
        self._headers += found
        self._untold += found
        try:
            while self._untold:
                self._worker.state.commit(self._shard.job, self._untold[0])
                self._untold.pop(0)
        except QueueUnavailable as error:
            log.warning("commit not counted yet", error=str(error))

    def _write(self, part: Part | None, rows: list[Row], seconds: float) -> CommitHeader:
        self._lease.check()
        storage, job, number = self._worker.storage, self._shard.job, self._shard.number
        header, record = records.commit_record(ShardId(job, number), rows, seconds, self._worker.name, part)
        try:
            storage.write_once(keys.commit(job, number, header.part), record, "application/jsonl")
        except WriteConflict:
            theirs = self._stored(CommitName(number, header.part))
            if theirs is None:
                storage.write_once(keys.commit(job, number, header.part), record, "application/jsonl")
            header = theirs or header
        counts = {"succeeded": header.succeeded, "failed": header.failed, "cached": header.cached}
        log.info("committed", part=header.part, **counts, seconds=header.seconds)
        return header

    def _stored(self, name: CommitName) -> CommitHeader | None:
        """The header of a record that another attempt has written; one that is damaged is set aside."""
        try:
            return records.load_header(self._worker.storage, self._shard.job, *name)
        except RecordDamaged as error:
            set_aside(self._worker.storage, error)
            return None

    def _take_back_if_late(self, headers: Sequence[CommitHeader]) -> None:
        """Remove the records of a worker that stood still in its write until a cancelled job had ended without it.

        Raises:
            ClaimLost: They are removed.
        """
        storage, job = self._worker.storage, self._shard.job
        final = records.load_final(storage, job) if storage.exists(keys.cancelled(job)) else None
        if final is None:
            return
        ours = [keys.commit(job, header.shard, header.part) for header in headers]
        written = {entry.key: entry.modified for key in (*ours, keys.final(job)) for entry in storage.list(key)}
        # Stores tell seconds: of the same one it is what the end has not counted.
        late = [key for key in ours if key in written and written[key] >= written[keys.final(job)]]
        if late and _is_more_than(records.committed(storage, job), final):
            storage.delete(late)
            raise ClaimLost("the job ended while a commit record was on its way")


def _is_more_than(committed: CommittedTotals, final: Job) -> bool:
    return committed.succeeded + committed.failed > final.counts.succeeded + final.counts.failed
