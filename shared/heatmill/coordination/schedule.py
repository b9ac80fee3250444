"""Which shard is sent next, and which job is planned next: turns that Redis keeps, so that feeding reads no job.

`lua/schedule/schedule.lua` names the keys. All of them follow from the fields of the jobs: `mend` builds them again.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, islice
from typing import Any, Literal
from uuid import uuid4

import redis

from heatmill.coordination.redis_errors import milliseconds, translated
from heatmill.storage.keys import JobId

WORKERS = "heatmill:workers"
# How many jobs were chosen to be mended.
MENDED = "heatmill:mended"
# Jobs that one script mends: it takes less than 10 ms.
AT_A_TIME = 250
# A complete job is told of again after so long, should nobody have finished it.
COMPLETE_AGAIN_MS = 5000

Known = Literal["unknown", "unplanned", "open", "ending", "complete"]


@dataclass(frozen=True)
class Sent:
    """A shard that is to be sent now.

    Args:
        step: Of its priority.
    """

    job: JobId
    shard: int
    step: int


@dataclass(frozen=True)
class Filled:
    """What a look at all jobs came to.

    Args:
        shards: To send, in this order.
        complete: Jobs of which nothing more will be committed.
    """

    shards: tuple[Sent, ...]
    complete: tuple[JobId, ...]


@dataclass(frozen=True)
class Window:
    """How much may be outstanding.

    Args:
        shards: At least so many; more where more than half as many workers live.
        lists: Those of the queue that shards lie in.
        period_seconds: Between two fills, at the most; where none comes for twice as long, nobody waits for a turn.
    """

    shards: int
    lists: Sequence[str]
    period_seconds: float = 3.0


class Schedule:
    """Turns of tenants and of their jobs.

    Every method raises `QueueUnavailable` when Redis does not answer.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        folder = files("heatmill.coordination") / "lua" / "schedule"
        scripts = {entry.name.removesuffix(".lua"): entry.read_text() for entry in folder.iterdir()}
        shared = scripts.pop("schedule")
        self._scripts = {name: client.register_script(shared + text) for name, text in scripts.items()}

    def fill(self, window: Window, patience_seconds: float, most: int, most_complete: int) -> Filled:
        """Choose what to send next, until the window is full: by priority, then tenants, then a tenant's jobs in turn.

        Args:
            window: Its size, and where it lies.
            patience_seconds: What is not claimed by then may be sent again.
            most: Shards of one call.
            most_complete: Jobs of one call that are complete; each is told again after a while.
        """
        limits = (window.shards, milliseconds(patience_seconds), most, max(0, most_complete), COMPLETE_AGAIN_MS)
        fed_for = milliseconds(2 * window.period_seconds)
        answer = json.loads(self._run("fill", uuid4().hex, *limits, fed_for, *window.lists))
        shards = (Sent(JobId.parse(job), int(shard), int(step)) for job, shard, step in answer.get("shards", ()))
        return Filled(tuple(shards), tuple(map(JobId.parse, answer.get("complete", ()))))

    def give_back(self, shards: Iterable[Sent]) -> None:
        """Let shards that could not be sent be sent again at once."""
        self._run("give_back", *chain.from_iterable((str(each.job), each.shard) for each in shards))

    def take(self, job: JobId, patience_seconds: float) -> int | None:
        """The next shard of one job to send, marked as sent until the patience is over; None where there is none now.

        The job has had its turn then, and so has its tenant.
        """
        answer = self._run("take", job, milliseconds(patience_seconds), uuid4().hex)
        return None if answer is None else int(answer)

    def may_go_first(self, job: JobId, window: Window) -> bool:
        """Whether a new job need not wait for its turn: few of its priority are sent, and nobody waits for a turn."""
        return bool(self._run("may_go_first", job, window.shards, *window.lists))

    def mend(self, jobs: Iterable[JobId]) -> Iterator[tuple[JobId, Known]]:
        """What is known of jobs, each of which waits where it belongs then."""
        names = iter(jobs)
        while some := list(islice(names, AT_A_TIME)):
            yield from zip(some, self._run("mend", *some), strict=True)

    def trim_jobs(self, entries: str, floor: str, most: int) -> None:
        """Keep the newest entries of a tenant's list of jobs, under these keys; see `job_index`."""
        self._run("trim_jobs", most, keys=[entries, floor])

    def next_part(self, jobs: Sequence[JobId], most: int) -> Sequence[JobId]:
        """All jobs where they are few, else so many of them: all have come after some calls, whoever calls."""
        if len(jobs) <= most:
            return jobs
        with translated():
            start = int(self.client.incrby(MENDED, most)) % len(jobs)
        return [*jobs[start:], *jobs[:start]][:most]

    def forget(self, job: JobId, names: Iterable[str]) -> None:
        """Drop a job and its keys."""
        self._run("forget", job, keys=names)

    def to_plan(self, most_tenants: int, most_jobs: int) -> list[JobId]:
        """The jobs to plan next, best first: tenants in turn, of each its first few jobs."""
        return [JobId.parse(job) for job in self._run("plan_next", most_tenants, most_jobs)]

    def note_planning(self, job: JobId, *, put_off: bool = False) -> None:
        """Note that a job, and its tenant, have a turn of planning; one that is put off goes behind the others."""
        self._run("plan_turn", job, int(put_off))

    def note_worker(self, name: str, seconds: float) -> None:
        """Count an explain worker among the living for a while."""
        self._run("live", name, milliseconds(seconds), keys=[WORKERS])

    def _run(self, script: str, *arguments: Any, keys: Iterable[str] = ()) -> Any:
        with translated():
            return self._scripts[script](keys=list(keys), args=[_plain(argument) for argument in arguments])


def _plain(argument: object) -> str | int:
    return argument if isinstance(argument, int) else str(argument)
