"""Find the item that kills workers: from the second attempt on, each item goes alone and its name is noted first."""

from typing import Protocol

from heatmill.coordination.job_store import RedisJobStore
from heatmill.errors import WorkerCrashed
from heatmill.schemas import Item
from heatmill_workers.shard.lease import ClaimedShard


class Opinion(Protocol):
    """What workers have told of the items over which they ended."""

    @property
    def suspects_items(self) -> bool:
        """Whether one of the shard's items may be why a worker has ended."""

    def check(self, item: Item) -> None:
        """Refuse an item over which two workers have ended.

        Raises:
            WorkerCrashed: It is one.
        """


class NoOpinion:
    """Nobody has told anything."""

    suspects_items = False

    def check(self, item: Item) -> None:
        """Let it pass."""


NO_OPINION = NoOpinion()


class CrashGuard:
    """What is known about the deaths over one shard's earlier attempts.

    Args:
        state: Where the notes are.
        shard: Its attempt says whether a worker has died over this shard before.
        max_attempts: Maximum number of attempts that may crash. Each item identified as the cause adds one, at most
            doubling the limit.
        opinion: On the shard; what ends a worker on purpose is told there.

    Raises:
        WorkerCrashed: The limit is reached: no attempt is made any more.
    """

    def __init__(
        self, state: RedisJobStore, shard: ClaimedShard, max_attempts: int, opinion: Opinion = NO_OPINION
    ) -> None:
        self._state, self._shard, self._opinion = state, shard, opinion
        has_died = shard.claim.attempt > 1
        self.isolates_items = has_died or opinion.suspects_items
        self._blamed = state.suspects(shard.job, shard.number) if has_died else frozenset()
        if shard.claim.attempt > max_attempts + min(len(self._blamed), max_attempts):
            raise WorkerCrashed(f"a worker died on each of {shard.claim.attempt - 1} attempts at this item's shard")

    def enter(self, item: Item) -> None:
        """Note that this item is processed next.

        Raises:
            WorkerCrashed: It was being processed when an earlier worker died, or two have ended.
        """
        self._opinion.check(item)
        if item.index in self._blamed:
            raise WorkerCrashed(f"the worker died while it processed item {item.id!r}")
        if self.isolates_items:
            self._state.mark_in_progress(self._shard.job, self._shard.number, item.index)
