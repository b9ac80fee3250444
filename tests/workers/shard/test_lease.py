"""A claim lives while its block runs, and says when it is lost."""

import time
from contextlib import closing

import pytest

from heatmill.coordination.job_store import Claim, RedisJobStore, open_state
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.errors import ClaimLost
from heatmill.schemas import Plan
from heatmill.storage.keys import JobId
from heatmill_workers.shard.lease import ClaimedShard, hold_lease

JOB = JobId("default", "0" * 32)
PLAN = Plan(shards=1, items=1, results=1, model="m", methods=(), top_k=1)


@pytest.fixture
def shard(state: RedisJobStore) -> ClaimedShard:
    state.register(JOB, {"priority": "normal"}, PLAN, CommittedTotals())
    claim = state.claim(JOB, 0, "ours", 0.3)
    assert isinstance(claim, Claim)
    return ClaimedShard(JOB, 0, claim)


def test_a_held_shard_cannot_be_claimed_long_after_the_claim_would_have_run_out(
    state: RedisJobStore, shard: ClaimedShard
) -> None:
    with hold_lease(state, shard, 0.3):
        time.sleep(0.8)
        assert state.claim(JOB, 0, "theirs", 0.3) == "claimed"


def test_a_shard_that_is_no_longer_held_can_be_claimed_when_its_time_is_over(
    state: RedisJobStore, shard: ClaimedShard
) -> None:
    with hold_lease(state, shard, 0.3):
        pass
    time.sleep(0.4)
    assert isinstance(state.claim(JOB, 0, "theirs", 0.3), Claim)


def test_a_claim_taken_over_is_lost(state: RedisJobStore, shard: ClaimedShard) -> None:
    time.sleep(0.4)
    state.claim(JOB, 0, "theirs", 10)
    with hold_lease(state, shard, 10) as lease, pytest.raises(ClaimLost):
        lease.check()


def test_a_cancelled_job_s_claim_is_lost(state: RedisJobStore, shard: ClaimedShard) -> None:
    with hold_lease(state, shard, 10) as lease:
        lease.check()
        state.cancel(JOB)
        with pytest.raises(ClaimLost):
            lease.check()


def test_a_redis_that_does_not_answer_does_not_end_the_claim(shard: ClaimedShard) -> None:
    with (
        closing(open_state("redis://127.0.0.1:1/0").client) as client,
        hold_lease(RedisJobStore(client), shard, 10) as lease,
    ):
        lease.check()


def test_a_wiped_redis_does_not_end_the_claim(state: RedisJobStore, shard: ClaimedShard) -> None:
    state.client.flushall()
    with hold_lease(state, shard, 10) as lease:
        lease.check()
        state.register(JOB, {"priority": "normal"}, PLAN, CommittedTotals())
        lease.check()
        assert state.claim(JOB, 0, "theirs", 10) == "claimed"
