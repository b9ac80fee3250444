"""Any order of planning, work, deaths and wipes: what Redis says never contradicts the store, and all work is done."""

from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.coordination.shard_set import CommittedTotals, HalfDone, ShardSet
from heatmill.schemas import CommitHeader, MethodRequest, Plan
from heatmill.storage.keys import JobId
from tests.shared.known_jobs import told

JOB = JobId("tenant", "job")
SHARDS, PARTS = 3, 3
PLAN = Plan(shards=SHARDS, items=SHARDS, results=SHARDS * PARTS, model="m", methods=(MethodRequest(name="x"),), top_k=1)
LONG, OVER = 60.0, 0.0
SHARD = st.integers(0, SHARDS - 1)
PART = st.integers(0, PARTS - 1)
WORKER = st.sampled_from(["a", "b"])
SECONDS = st.sampled_from([LONG, OVER])


def test_counts_follow_the_records_whatever_happens(state: RedisJobStore) -> None:
    Cluster.state = state
    run_state_machine_as_test(
        Cluster,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


class Cluster(RuleBasedStateMachine):
    """One job; `records` stands for the commit records in the store, by shard and part; None is a whole shard."""

    state: ClassVar[RedisJobStore]

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[tuple[int, int | None], tuple[int, int]] = {}
        self.stale: CommittedTotals | None = None
        self.state.client.flushall()

    @rule()
    def wipe(self) -> None:
        self.state.client.flushall()

    @rule()
    def start_rebuilding(self) -> None:
        self.stale = self.stored()

    @precondition(lambda self: self.stale is not None)
    @rule()
    def end_rebuilding(self) -> None:
        assert self.stale is not None
        self.state.register(JOB, {}, PLAN, self.stale)

    @rule(seconds=SECONDS)
    def send(self, seconds: float) -> None:
        shard = self.state.take_next_shard(JOB, seconds)
        assert shard is None or 0 <= shard < SHARDS

    @rule(shard=SHARD, worker=WORKER, seconds=SECONDS)
    def claim(self, shard: int, worker: str, seconds: float) -> None:
        answer = self.state.claim(JOB, shard, worker, seconds)
        if isinstance(answer, Claim):
            assert answer.attempt >= 1

    @rule(shard=SHARD, worker=WORKER, seconds=SECONDS)
    def heartbeat(self, shard: int, worker: str, seconds: float) -> None:
        self.state.heartbeat(JOB, shard, worker, seconds)

    @rule(shard=SHARD, worker=WORKER)
    def release(self, shard: int, worker: str) -> None:
        self.state.release(JOB, shard, worker, OVER)

    @rule(shard=SHARD, part=PART, failed=st.booleans())
    def store_record(self, shard: int, part: int, failed: bool) -> None:
        """The record is write-once: whoever comes second has written nothing."""
        self.records.setdefault((shard, part), (0, 1) if failed else (1, 0))

    @rule(shard=SHARD)
    def store_whole(self, shard: int) -> None:
        """As an earlier version does, whatever was committed of it: with the same results."""
        parts = [self.records.setdefault((shard, part), (1, 0)) for part in range(PARTS)]
        self.records[shard, None] = (sum(good for good, _ in parts), sum(bad for _, bad in parts))

    @rule(shard=SHARD, part=st.one_of(PART, st.none()))
    def tell(self, shard: int, part: int | None) -> None:
        if (shard, part) in self.records:
            self.state.commit(JOB, self.header(shard, part))

    @invariant()
    def redis_never_says_more_than_the_store(self) -> None:
        progress = self.state.progress(JOB)
        if progress is None:
            assert self.state.open_jobs() == []
            return
        stored = self.stored()
        assert progress.committed <= len(stored.shards)
        assert progress.counts.succeeded <= stored.succeeded
        assert progress.counts.failed <= stored.failed
        assert progress.counts.done >= progress.committed * PARTS

    def teardown(self) -> None:
        """From any state the timer's repair and the workers bring the job to its end."""
        self.state.register(JOB, {}, PLAN, self.stored())
        self._work_through()
        progress = self.state.progress(JOB)
        assert progress is not None
        stored = self.stored()
        assert stored.shards == ShardSet.of(range(SHARDS))
        assert progress.committed == SHARDS
        assert (progress.counts.succeeded, progress.counts.failed) == (stored.succeeded, stored.failed)

    def header(self, shard: int, part: int | None) -> CommitHeader:
        counts = self.records[shard, part]
        return told(shard, *counts) if part is None else told(shard, *counts, part=part, parts=PARTS)

    def stored(self) -> CommittedTotals:
        """What `records.committed` finds."""
        halves: dict[int, HalfDone] = {}
        shards, succeeded, failed = [], 0, 0
        for shard in range(SHARDS):
            found = {part: self.records[shard, part] for part in range(PARTS) if (shard, part) in self.records}
            good, bad = (sum(each[kind] for each in found.values()) for kind in (0, 1))
            succeeded, failed = succeeded + good, failed + bad
            if len(found) == PARTS:
                shards.append(shard)
            elif found:
                halves[shard] = HalfDone(sum(1 << part for part in found), good, bad, 0)
        return CommittedTotals(ShardSet.of(shards), succeeded, failed, half_done=halves)

    def _work_through(self) -> None:
        self._end_all_deadlines()
        while (shard := self.state.take_next_shard(JOB, LONG)) is not None:
            assert isinstance(self.state.claim(JOB, shard, "last", LONG), Claim)
            for part in range(PARTS):
                self.records.setdefault((shard, part), (1, 0))
                self.state.commit(JOB, self.header(shard, part))

    def _end_all_deadlines(self) -> None:
        """Time passes: what was sent or claimed for long is late now."""
        names = f"heatmill:{{{JOB}}}:"
        for shard in self.state.client.zrange(f"{names}inflight", 0, -1):
            self.state.client.zadd(f"{names}inflight", {str(shard): 1})
        for shard, holder in self.state.client.hgetall(f"{names}claims").items():
            self.state.client.hset(f"{names}claims", str(shard), f"{str(holder).split()[0]} 1")
