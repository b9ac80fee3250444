"""Redis counts a shard by its parts, each once, in any order, and after a wipe too."""

from itertools import permutations

import pytest

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.coordination.shard_set import CommittedTotals, HalfDone, ShardSet
from heatmill.schemas import CommitHeader
from tests.shared.known_jobs import JOB, LONG, counts, known, told, working

PARTS = tuple(told(0, 2, 1, 1, part=part, parts=3) for part in range(3))


def half_done(state: RedisJobStore) -> dict[str, str]:
    return {str(shard): str(found) for shard, found in state.client.hgetall(f"heatmill:{{{JOB}}}:parts").items()}


@pytest.mark.parametrize(
    "order", list(permutations(PARTS)), ids=lambda order: "".join(str(each.part) for each in order)
)
def test_a_shard_is_committed_with_the_last_of_its_parts(state: RedisJobStore, order: tuple[CommitHeader, ...]) -> None:
    known(state)
    state.claim(JOB, 0, "a", LONG)
    for done, header in enumerate(order):
        assert counts(state) == (0, 2 * done, done)
        assert working(state) == 1, "the claim lives on"
        for _ in range(2):
            state.commit(JOB, header)

    assert counts(state) == (1, 6, 3)
    assert working(state) == 0
    assert half_done(state) == {}
    for header in order:
        state.commit(JOB, header)
    assert counts(state) == (1, 6, 3)


def test_a_half_done_shard_is_sent_again_and_not_another_time_counted(state: RedisJobStore) -> None:
    known(state, shards=1)
    assert state.take_next_shard(JOB, LONG) == 0
    state.claim(JOB, 0, "a", LONG)
    state.commit(JOB, PARTS[1])
    state.release(JOB, 0, "a", 0)

    assert state.take_next_shard(JOB, LONG) == 0
    assert isinstance(state.claim(JOB, 0, "b", LONG), Claim)
    for header in PARTS:
        state.commit(JOB, header)
    assert counts(state) == (1, 6, 3)


def test_a_wiped_redis_learns_of_half_done_shards_by_registering(state: RedisJobStore) -> None:
    found = CommittedTotals(ShardSet.of([1]), 5, 2, 1, {0: HalfDone(0b011, 4, 2, 2)})
    known(state, committed=found)
    known(state, committed=found)

    assert counts(state) == (1, 5, 2)
    state.commit(JOB, PARTS[1])
    assert counts(state) == (1, 5, 2)
    state.commit(JOB, PARTS[2])
    assert counts(state) == (2, 7, 3)
    progress = state.progress(JOB)
    assert progress
    assert progress.counts.cached == 2


def test_the_record_of_a_whole_shard_counts_what_its_parts_have_not(state: RedisJobStore) -> None:
    known(state)
    state.commit(JOB, PARTS[0])
    for _ in range(2):
        state.commit(JOB, told(0, 5, 4, 1))

    assert counts(state) == (1, 5, 4)
    state.commit(JOB, PARTS[1])
    assert counts(state) == (1, 5, 4)


def test_a_committed_part_begins_the_attempts_again(state: RedisJobStore) -> None:
    known(state)
    for token in ("a", "b", "c"):
        attempt = state.claim(JOB, 0, token, 0.0)
    assert attempt == Claim("c", 3)

    state.commit(JOB, PARTS[0])

    assert state.claim(JOB, 0, "d", 0.0) == Claim("d", 2)
    state.commit(JOB, PARTS[0])
    assert state.claim(JOB, 0, "e", 0.0) == Claim("e", 3), "a part that is told again is no progress"


def test_a_forgotten_job_leaves_no_parts(state: RedisJobStore) -> None:
    known(state)
    state.commit(JOB, PARTS[0])
    state.forget(JOB)
    assert half_done(state) == {}
