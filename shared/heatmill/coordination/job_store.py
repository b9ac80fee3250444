"""What Redis remembers about open jobs: counts, who works on which shard, what was sent. All of it can be rebuilt.

Per job: a hash (summary and counts), a bitmap of committed shards, `parts` (shard -> which of its parts are committed,
and their counts, while others are not), `inflight` (shard -> deadline), `claims` (shard -> holder and deadline) and
`attempts`. Deadlines are Redis' own clock, so that machines need not agree on the time. Every change that must not be
half done, or done twice, is one Lua script.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, TypeVar

import redis

from heatmill.coordination.progress import JobProgress, read_progress
from heatmill.coordination.redis_address import open_client
from heatmill.coordination.redis_errors import milliseconds, translated
from heatmill.coordination.schedule import Schedule
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.coordination.task_queue import PRIORITY_STEPS
from heatmill.errors import QueueFull, QueueUnavailable
from heatmill.schemas import CommitHeader, Plan
from heatmill.storage.keys import JobId

OPEN_JOBS = "heatmill:open"
OUTSTANDING = "heatmill:outstanding"
CHECKED_RUN_ID = "heatmill:checked-run-id"
NOTE_SECONDS = 86_400
OF_JOB = (
    *("job", "committed", "parts", "inflight", "claims", "attempts", "current", "crashed", "planner", "finisher"),
    "condition",
)
# As earlier versions kept the turns.
OUTDATED = "heatmill:turns"
# Written to see whether there is room.
ROOM = "heatmill:room"

T = TypeVar("T")
Refusal = Literal["unknown", "committed", "cancelled", "claimed"]


@dataclass(frozen=True)
class Claim:
    """The right to work on a shard for a while.

    Args:
        token: Differs from every other claim; a writer whose token is no longer the stored one has lost the shard.
        attempt: 1 for the first time that a worker touches the shard.
    """

    token: str
    attempt: int


class RedisJobStore:
    """State of open jobs in Redis.

    Attributes:
        schedule: Who has the next turn.

    Every method raises `QueueUnavailable` when Redis does not answer.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.schedule = Schedule(client)
        self._scripts = {
            entry.name.removesuffix(".lua"): client.register_script(entry.read_text())
            for entry in (files("heatmill.coordination") / "lua" / "jobs").iterdir()
        }

    def register(self, job: JobId, summary: dict[str, Any], plan: Plan | None, committed: CommittedTotals) -> None:
        """Make a job known, or add the plan to a known one; a job that has both is left as it is.

        Args:
            job: The job.
            summary: What a status answer tells beside the counts, and the priority.
            plan: None until the source has been listed.
            committed: What the commit records say; nothing for a new job.
        """
        counts = {"succeeded": committed.succeeded, "failed": committed.failed, "cached": committed.cached}
        step = PRIORITY_STEPS[summary.get("priority", "normal")]
        fields = {"summary": json.dumps(summary), "step": step, **counts}
        planned = json.dumps({} if plan is None else planned_fields(plan))
        half_done = json.dumps({str(shard): str(counts) for shard, counts in committed.half_done.items()})
        self._run("register", job, json.dumps(fields), planned, committed.shards.bits, half_done)

    def take_next_shard(self, job: JobId, patience_seconds: float) -> int | None:
        """The next shard of a job to send; see `Schedule.take`."""
        return self.schedule.take(job, patience_seconds)

    def claim(self, job: JobId, shard: int, token: str, seconds: float) -> Claim | Refusal:
        """Take a shard to work on, and count the attempt."""
        answer = self._run("claim", job, shard, token, milliseconds(seconds))
        return Claim(token, answer) if isinstance(answer, int) else answer

    def heartbeat(self, job: JobId, shard: int, token: str, seconds: float) -> bool:
        """Prolong a claim; False when another worker holds the shard or the job was cancelled."""
        return bool(self._run("heartbeat", job, shard, token, milliseconds(seconds)))

    def release(self, job: JobId, shard: int, token: str, retry_seconds: float, *, counts: bool = False) -> None:
        """Give a shard back, to be sent again later; `counts` where the next attempt has to take each item alone."""
        self._run("release", job, shard, token, milliseconds(retry_seconds), int(counts))

    def commit(self, job: JobId, header: CommitHeader) -> None:
        """Count a part of a shard, or a whole one, whose commit record is stored; counting it again changes nothing.

        A shard of which a part is committed begins its attempts again: deaths that prevent nothing are no reason to
        give it up.
        """
        part = -1 if header.part is None else header.part
        counts = (header.succeeded, header.failed, header.cached)
        self._run("commit", job, header.shard, part, header.parts, *counts)

    def cancel(self, job: JobId) -> None:
        """Stop sending; workers notice at their next batch."""
        self._run("cancel", job)

    def is_cancelled(self, job: JobId) -> bool:
        """Whether the caller asked to stop."""
        with translated():
            return self.client.hget(key(job, "job"), "cancelled") is not None

    def progress(self, job: JobId) -> JobProgress | None:
        """Counts of an open job; None where Redis knows no such job."""
        return read_progress(self._run("progress", job))

    def forget(self, job: JobId) -> None:
        """Drop a terminal job."""
        self.schedule.forget(job, (OUTDATED, *(key(job, name) for name in OF_JOB)))

    def open_jobs(self) -> list[JobId]:
        """Jobs that are known and not terminal."""
        with translated():
            return [JobId.parse(str(name)) for name in self.client.smembers(OPEN_JOBS)]

    def acquire_lock(self, job: JobId, role: str, token: str, seconds: float) -> bool:
        """Be, or stay, the one who plans, finishes or sweeps a job; False while somebody else is."""
        name = key(job, role)
        with translated():
            if self.client.set(name, token, nx=True, px=milliseconds(seconds)):
                return True
            return self.client.get(name) == token and bool(self.client.pexpire(name, milliseconds(seconds)))

    def release_lock(self, job: JobId, role: str, token: str) -> None:
        """End a hold, so that the next one need not wait for its time to pass."""
        with translated():
            if self.client.get(key(job, role)) == token:
                self.client.delete(key(job, role))

    def mark_in_progress(self, job: JobId, shard: int, index: int) -> None:
        """Write down which item is about to be processed, so that a crash names it."""
        with translated(), self.client.pipeline() as together:
            together.hset(key(job, "current"), str(shard), str(index))
            # A worker that has lost its claim may write after the job was forgotten.
            together.expire(key(job, "current"), NOTE_SECONDS)
            together.execute()

    def suspects(self, job: JobId, shard: int) -> frozenset[int]:
        """The items that were being processed when a worker died, the last one noted included."""
        name = key(job, "crashed")
        with translated():
            noted = self.client.hget(key(job, "current"), str(shard))
            if noted is not None:
                self.client.sadd(name, f"{shard}:{noted!s}")
                self.client.expire(name, NOTE_SECONDS)
                self.client.hdel(key(job, "current"), str(shard))
            blamed = [str(entry).split(":") for entry in self.client.smembers(name)]
        return frozenset(int(index) for number, index in blamed if int(number) == shard)

    def clear_mark(self, job: JobId, shard: int) -> None:
        """The attempt ended without a crash: nothing is to blame."""
        with translated():
            self.client.hdel(key(job, "current"), str(shard))

    def waiting(self, lists: list[str]) -> int:
        """Messages in a queue, by the lists that make it up."""
        with translated():
            return sum(int(self.client.llen(name)) for name in lists)

    def run_id(self) -> str:
        """Of the server's process: another one may remember an older state, or nothing."""
        with translated():
            return str(self.client.info("server")["run_id"])

    def checked_run_id(self) -> str | None:
        """Of the process whose state was last held against the durable records."""
        with translated():
            run_id = self.client.get(CHECKED_RUN_ID)
        return None if run_id is None else str(run_id)

    def note_checked(self, run_id: str) -> None:
        """Remember that it was."""
        with translated():
            self.client.set(CHECKED_RUN_ID, run_id)

    def refuse_if_full(self) -> None:
        """Raise if Redis takes nothing more; one that does not answer is no reason, since a job waits for that.

        Raises:
            QueueFull: It has reached its `maxmemory`.
        """
        try:
            with translated():
                self.client.set(ROOM, 1, px=1000)
        except QueueFull:
            raise
        except QueueUnavailable:
            return

    def ping(self) -> None:
        """Raise unless Redis answers."""
        with translated():
            self.client.ping()

    def _run(self, script: str, job: JobId, *arguments: Any, client: redis.Redis | None = None) -> Any:
        names = ("job", "committed", "inflight", "claims", "attempts")
        keys = [OPEN_JOBS, *(key(job, name) for name in names), OUTSTANDING, key(job, "parts")]
        with translated():
            return self._scripts[script](keys=keys, args=[str(job), *arguments], client=client)


def key(job: JobId, name: str) -> str:
    """A Redis key. The scripts touch keys of several jobs: this is for one Redis, not for a cluster."""
    return f"heatmill:{{{job}}}:{name}"


def planned_fields(plan: Plan) -> dict[str, int | str]:
    """What the plan adds to a job's hash."""
    fields: dict[str, int | str] = {"shards": plan.shards, "items": plan.items, "results": plan.results}
    if plan.makes_map:
        fields["map"] = 1
    if plan.map_error is not None:
        fields["map_error"] = plan.map_error.model_dump_json()
    return fields


def open_state(url: str, timeout_seconds: float = 10.0) -> RedisJobStore:
    """The job store at a Redis URL; nothing is sent yet.

    Args:
        url: Of Redis.
        timeout_seconds: After which it does not answer.

    Raises:
        RedisUnsuitable: The URL names no Redis that heatmill can work with.
    """
    return RedisJobStore(open_client(url, timeout_seconds))
