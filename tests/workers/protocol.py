"""A worker that runs for real, and at any of its steps is killed, fenced off, or loses what it talks to.

A step is a call of Redis or the store from the thread that runs the shard; the calls of its pools are not steps, but
die with it. What may happen at a step happens before the call; `lost_answer` kills the worker right after it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.errors import QueueUnavailable, StorageUnavailable, TransientError
from heatmill.jobs import records
from heatmill.schemas import Plan
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import CommitName, JobId
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import pass_time

LONG = 60.0
FENCING = frozenset({"cancel", "taken_over", "rival"})
Event = Literal["die", "lost_answer", "wipe", "cancel", "late", "taken_over", "rival", "no_redis", "no_store"]


class Died(BaseException):
    """kill -9: nothing of the worker runs any more."""


@dataclass(frozen=True)
class World:
    """What the workers share: one planned job in a real store and a real Redis.

    Args:
        first: The commit records, as they were first seen.
    """

    worker: WorkerContext
    job: JobId
    plan: Plan
    first: dict[CommitName, bytes] = field(default_factory=dict)

    def look(self) -> None:
        """Note each commit record as it was first seen.

        Raises:
            AssertionError: One is another now, or gone.
        """
        found = commit_records(self)
        assert self.first.items() <= found.items(), "a commit record has changed"
        self.first.update(found)

    @property
    def storage(self) -> S3Storage:
        """Watched by nobody."""
        return self.worker.storage

    @property
    def state(self) -> RedisJobStore:
        """Watched by nobody."""
        return self.worker.state

    @property
    def knows(self) -> bool:
        """Whether Redis has heard of the job."""
        return self.state.progress(self.job) is not None

    def cancel(self) -> None:
        """As the API does."""
        self.storage.write_once(keys.cancelled(self.job), b"{}")
        self.state.cancel(self.job)

    def pass_time(self) -> None:
        """What was sent or claimed for long is late now."""
        pass_time(self.state, self.job)


class Attempt:
    """One delivery of a shard to one worker.

    Args:
        world: Where it runs.
        shard: Which one.
        events: What happens, by the number of the step.
        pictures_late: Mutation: pictures are written after the commit record, as they must not be.
    """

    def __init__(self, world: World, shard: int, events: dict[int, Event], *, pictures_late: bool = False) -> None:
        self._world, self._shard, self._events = world, shard, events
        self._pictures_late = pictures_late
        self._held_back: list[Callable[[], object]] = []
        self._thread = threading.get_ident()
        self._steps = 0
        self._fenced_at: int | None = None
        self._dead = False
        self._committed_late = False

    def run(self) -> None:
        """From claim to commit, or to where it ends.

        Raises:
            AssertionError: It has committed after it was fenced off, or a commit record is another now.
        """
        worker = replace(
            self._world.worker,
            storage=cast(S3Storage, _Watched(self._world.storage, self._call)),
            state=cast(RedisJobStore, _Watched(self._world.state, self._call)),
        )
        try:
            process_shard(worker, self._world.job, self._shard)
        except Died:
            self._dead = True
        except TransientError:
            # Before the claim, or around giving it back: the task fails, and feed sends the shard again.
            pass
        # Not where it happens: the worker takes every error of a shard as one to give it back for.
        assert not self._committed_late, "a worker that was fenced off has committed"
        self._world.look()

    def _call(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self._dead:
            raise Died
        if threading.get_ident() != self._thread:
            if self._pictures_late and name == "put":
                return self._held_back.append(lambda: call(*arguments))
            return call(*arguments)
        step, self._steps = self._steps, self._steps + 1
        event = self._events.get(step)
        self._happen(event, step)
        commits = keys.shard_commits(self._world.job, self._shard)
        is_commit = name == "write_once" and arguments[0].startswith(commits)
        if is_commit:
            # Whoever was fenced off before its last look at Redis must not come this far; after it, the store alone is
            # asked whether the job has ended.
            self._committed_late |= self._fenced_at not in (None, step - 1, step)
        answer = call(*arguments)
        if event == "lost_answer":
            self._dead = True
            raise Died
        for write in self._held_back if is_commit else ():
            write()
        return answer

    def _happen(self, event: Event | None, step: int) -> None:
        # A Redis that knows nothing cannot fence; the record is write-once.
        if event in FENCING and self._fenced_at is None and step > 0 and self._world.knows:
            self._fenced_at = step
        if event is not None and event != "lost_answer":
            getattr(self, f"_{event}")()

    def _die(self) -> None:
        self._dead = True
        raise Died

    def _wipe(self) -> None:
        self._fenced_at = None
        self._world.state.client.flushall()

    def _cancel(self) -> None:
        self._world.cancel()

    def _late(self) -> None:
        self._world.pass_time()

    def _taken_over(self) -> None:
        """Another worker does the whole shard meanwhile."""
        self._world.pass_time()
        rival = replace(self._world.worker, name="rival")
        Attempt(replace(self._world, worker=rival), self._shard, {}).run()

    def _rival(self) -> None:
        """Another worker begins with it, and is still at it when this one goes on."""
        self._world.pass_time()
        if not isinstance(self._world.state.claim(self._world.job, self._shard, "rival", LONG), Claim):
            self._fenced_at = None

    def _no_redis(self) -> None:
        raise QueueUnavailable("for this once")

    def _no_store(self) -> None:
        raise StorageUnavailable("for this once")


class _Watched:
    """Passes every method call on through `call`."""

    def __init__(self, real: object, call: Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]) -> None:
        self._real, self._call = real, call

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if not callable(attribute):
            return attribute

        def watched(*arguments: Any, **named: Any) -> Any:
            return self._call(name, lambda *given: attribute(*given, **named), arguments)

        return watched


def pictures(world: World) -> dict[str, bytes]:
    """Every heatmap and attribution of the job, or the tars that hold them."""
    found = [entry.key for entry in world.storage.list(world.job.prefix)]
    kinds = ("/heatmaps/", "/attributions/", "/shards.out/")
    return {key: world.storage.get(key) for key in found if any(kind in key for kind in kinds)}


def commit_records(world: World) -> dict[CommitName, bytes]:
    """Every commit record, as it stands."""
    names = records.committed_names(world.storage, world.job)
    return {name: world.storage.get(keys.commit(world.job, *name)) for name in names}
