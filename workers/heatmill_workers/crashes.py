"""Find the item that kills workers: from the second attempt on, each item goes alone and its name is noted first."""

from heatmill.errors import WorkerCrashed
from heatmill.schemas import Item
from heatmill.state import RedisJobStore
from heatmill_workers.claims import ClaimedShard


class CrashWatch:
    """What is known about the crashes of one shard's earlier attempts.

    Args:
        state: Where the notes are.
        shard: Its attempt says whether a worker has died over this shard before.
        max_attempts: After as many attempts that died before any item could be blamed, all items are.
    """

    def __init__(self, state: RedisJobStore, shard: ClaimedShard, max_attempts: int) -> None:
        self._state, self._shard = state, shard
        self.is_suspicious = shard.claim.attempt > 1
        self._blamed = state.blame_noted(shard.job, shard.number) if self.is_suspicious else frozenset()
        self._all_blamed = shard.claim.attempt > max_attempts + len(self._blamed)

    def enter(self, item: Item) -> None:
        """Note that this item is processed next.

        Raises:
            WorkerCrashed: It was being processed when an earlier worker died.
        """
        if item.index in self._blamed or self._all_blamed:
            raise WorkerCrashed(f"the worker died while it processed item {item.id!r}")
        if self.is_suspicious:
            self._state.note_item(self._shard.job, self._shard.number, item.index)
