"""A job's map is one more shard, which comes when all others are committed."""

import time

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.coordination.shard_set import CommittedTotals, ShardSet
from heatmill.schemas import MapRequest
from tests.shared.known_jobs import JOB, LONG, SHORT, SUMMARY, plan, taken, told


def known_with_map(state: RedisJobStore, *committed: int) -> None:
    asked = plan(2).model_copy(update={"map": MapRequest(method="tsne")})
    state.register(JOB, SUMMARY, asked, CommittedTotals(ShardSet.of(committed)))


def test_a_map_is_sent_once_and_only_after_the_last_commit(state: RedisJobStore) -> None:
    known_with_map(state)
    assert taken(state) == [0, 1]
    state.commit(JOB, told(1, 1, 0))
    assert taken(state) == []
    state.commit(JOB, told(0, 1, 0))
    assert taken(state) == [2]


def test_a_map_that_nobody_claims_or_whose_worker_dies_is_sent_again(state: RedisJobStore) -> None:
    known_with_map(state, 0, 1)
    assert state.take_next_shard(JOB, SHORT) == 2
    time.sleep(SHORT * 1.5)
    assert state.take_next_shard(JOB, LONG) == 2
    assert isinstance(state.claim(JOB, 2, "a", SHORT), Claim)
    time.sleep(SHORT * 1.5)
    assert state.take_next_shard(JOB, LONG) == 2
    assert state.claim(JOB, 2, "b", LONG) == Claim("b", 2)


def test_a_map_that_is_made_or_not_wanted_is_not_sent(state: RedisJobStore) -> None:
    known_with_map(state, 0, 1)
    assert taken(state) == [2]
    state.commit(JOB, told(2, 0, 0))
    assert taken(state) == []
    progress = state.progress(JOB)
    assert progress
    assert (progress.makes_map, progress.shards, progress.committed) == (True, 2, 3)
    state.forget(JOB)
    known_with_map(state, 0, 1)
    state.cancel(JOB)
    assert taken(state) == []


def test_a_rebuilt_job_knows_that_its_map_is_made(state: RedisJobStore) -> None:
    known_with_map(state, 0, 1, 2)
    assert taken(state) == []
