"""What can be seen of Redis while a test runs: how many attempts shards took, how much lay in the queue."""

import threading
from collections import defaultdict
from contextlib import closing

from heatmill.coordination.job_store import RedisJobStore, key, open_state
from heatmill.coordination.redis_errors import translated
from heatmill.coordination.task_queue import EXPLAIN_QUEUE, lists
from heatmill.errors import QueueUnavailable
from heatmill.storage.keys import JobId

LISTS = lists(EXPLAIN_QUEUE)
PERIOD_SECONDS = 0.05


class Watcher:
    """Looks at Redis all the time, in a thread, and keeps the highest numbers.

    Args:
        redis_url: Of a Redis that may go away and come back.
    """

    def __init__(self, redis_url: str) -> None:
        self.attempts: dict[JobId, int] = defaultdict(int)
        self.queued = 0
        self._redis_url = redis_url
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        state = open_state(self._redis_url)
        with closing(state.client):
            while not self._stopped.wait(PERIOD_SECONDS):
                try:
                    self._look(state)
                except QueueUnavailable:
                    continue

    def _look(self, state: RedisJobStore) -> None:
        self.queued = max(self.queued, state.waiting(LISTS))
        for job in state.open_jobs():
            with translated():
                counts = state.client.hvals(key(job, "attempts"))
            self.attempts[job] = max([self.attempts[job], *map(int, counts)])
