"""Hold a shard while working on it: a thread prolongs the claim; between batches the work asks whether it is lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.errors import ClaimLost, QueueUnavailable
from heatmill.storage.keys import JobId

log = structlog.get_logger()


@dataclass(frozen=True)
class ClaimedShard:
    """A shard and our claim to it."""

    job: JobId
    number: int
    claim: Claim


class ShardLease:
    """A claim that is being prolonged.

    A Redis that does not answer does not end the claim: the commit record is write-once, so going on is safe.
    """

    def __init__(self, state: RedisJobStore, shard: ClaimedShard, seconds: float) -> None:
        self._state, self._shard, self._seconds = state, shard, seconds
        self._stopped = threading.Event()
        self._lost = threading.Event()

    def check(self) -> None:
        """Ask Redis, now.

        Raises:
            ClaimLost: Another worker holds the shard, or the job was cancelled.
        """
        self._beat()
        if self._lost.is_set():
            raise ClaimLost(f"shard {self._shard.number} of {self._shard.job} is no longer ours")

    def keep(self) -> None:
        """Prolong until stopped."""
        while not self._stopped.wait(self._seconds / 3) and not self._lost.is_set():
            self._beat()

    def stop(self) -> None:
        """End the prolonging; the claim itself is ended by a commit or a release."""
        self._stopped.set()

    def _beat(self) -> None:
        shard = self._shard
        try:
            if not self._state.heartbeat(shard.job, shard.number, shard.claim.token, self._seconds):
                self._lost.set()
        except QueueUnavailable as error:
            log.warning("heartbeat failed", error=str(error))


@contextmanager
def hold_lease(state: RedisJobStore, shard: ClaimedShard, seconds: float) -> Iterator[ShardLease]:
    """Prolong a claim for as long as the block runs."""
    claim = ShardLease(state, shard, seconds)
    thread = threading.Thread(target=claim.keep, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        claim.stop()
        thread.join()
