"""The Lua scripts on a real Redis: one shard has one holder, counts once, and is never forgotten."""

import time
from concurrent.futures import ThreadPoolExecutor

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.coordination.shard_set import CommittedTotals, ShardSet
from heatmill.schemas import MapRequest
from tests.shared.known_jobs import (
    JOB,
    LONG,
    OTHER,
    SHORT,
    SUMMARY,
    counts,
    known,
    outstanding,
    plan,
    taken,
    told,
    working,
)


def test_a_job_that_nobody_registered_is_unknown(state: RedisJobStore) -> None:
    assert state.progress(JOB) is None
    assert state.take_next_shard(JOB, LONG) is None
    assert state.claim(JOB, 0, "a", LONG) == "unknown"
    assert state.open_jobs() == []


def test_a_registered_job_has_its_summary_and_no_counts(state: RedisJobStore) -> None:
    state.register(JOB, SUMMARY, None, CommittedTotals())
    progress = state.progress(JOB)
    assert progress is not None
    assert (progress.summary, progress.counts.total, progress.shards, progress.started_at) == (
        SUMMARY,
        None,
        None,
        None,
    )
    assert state.open_jobs() == [JOB]
    assert state.take_next_shard(JOB, LONG) is None


def test_registering_again_adds_the_plan_and_keeps_counts_and_claims(state: RedisJobStore) -> None:
    state.register(JOB, SUMMARY, None, CommittedTotals())
    known(state)
    assert state.take_next_shard(JOB, LONG) == 0
    assert isinstance(state.claim(JOB, 0, "a", LONG), Claim)
    state.commit(JOB, told(0, succeeded=2, failed=1))
    state.cancel(JOB)
    state.register(JOB, {"model": "another"}, plan(99), CommittedTotals(ShardSet.of((1, 2)), 50, 50))
    progress = state.progress(JOB)
    assert progress is not None
    assert (progress.shards, progress.summary, progress.cancelled) == (3, SUMMARY, True)
    assert counts(state) == (1, 2, 1)


def test_shards_are_sent_once_each_and_in_order(state: RedisJobStore) -> None:
    known(state, shards=5)
    assert taken(state) == [0, 1, 2, 3, 4]
    assert outstanding(state) == 5


def test_a_shard_that_nobody_claims_is_sent_again(state: RedisJobStore) -> None:
    known(state, shards=1)
    assert state.take_next_shard(JOB, SHORT) == 0
    assert state.take_next_shard(JOB, SHORT) is None
    time.sleep(SHORT * 1.5)
    assert outstanding(state) == 0
    assert state.take_next_shard(JOB, SHORT) == 0


def test_feeders_at_the_same_time_never_get_the_same_shard(state: RedisJobStore) -> None:
    known(state, shards=200)
    with ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(lambda _: taken(state), range(8)))
    assert sorted(number for share in shares for number in share) == list(range(200))


def test_a_take_whose_answer_was_lost_gives_the_same_shard_again(state: RedisJobStore) -> None:
    known(state, shards=3)
    assert [state.schedule._run("take", JOB, 10_000, "one call") for _ in range(2)] == [0, 0]
    assert taken(state) == [1, 2]


def test_committed_shards_are_never_sent(state: RedisJobStore) -> None:
    known(state, shards=4, committed=CommittedTotals(ShardSet.of((0, 2)), 2, 0))
    assert taken(state) == [1, 3]
    assert counts(state) == (2, 2, 0)


def test_one_worker_holds_a_shard(state: RedisJobStore) -> None:
    known(state)
    assert state.claim(JOB, 0, "a", LONG) == Claim("a", 1)
    assert state.claim(JOB, 0, "b", LONG) == "claimed"
    assert state.claim(JOB, 1, "b", LONG) == Claim("b", 1)


def test_workers_at_the_same_time_have_one_winner(state: RedisJobStore) -> None:
    known(state)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: state.claim(JOB, 0, f"worker {number}", LONG), range(8)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1


def test_a_claim_sent_twice_is_one_attempt(state: RedisJobStore) -> None:
    known(state)
    assert state.claim(JOB, 0, "a", LONG) == Claim("a", 1)
    assert state.claim(JOB, 0, "a", LONG) == Claim("a", 1)


def test_a_claim_runs_out_without_a_heartbeat_and_attempts_are_counted(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 0, "a", SHORT)
    assert working(state) == 1
    time.sleep(SHORT * 1.5)
    assert working(state) == 0
    assert state.claim(JOB, 0, "b", LONG) == Claim("b", 2)


def test_a_heartbeat_keeps_the_claim_and_the_shard_from_being_sent(state: RedisJobStore) -> None:
    known(state, shards=1)
    state.take_next_shard(JOB, LONG)
    state.claim(JOB, 0, "a", SHORT)
    for _ in range(4):
        time.sleep(SHORT / 2)
        assert state.heartbeat(JOB, 0, "a", SHORT)
    assert state.claim(JOB, 0, "b", LONG) == "claimed"
    assert state.take_next_shard(JOB, LONG) is None


def test_a_dead_workers_shard_is_sent_again_when_its_claim_runs_out(state: RedisJobStore) -> None:
    known(state, shards=1)
    state.take_next_shard(JOB, LONG)
    state.claim(JOB, 0, "a", SHORT)
    time.sleep(SHORT * 1.5)
    assert state.take_next_shard(JOB, LONG) == 0


def test_a_zombie_cannot_keep_or_release_what_another_holds(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 0, "zombie", SHORT)
    time.sleep(SHORT * 1.5)
    state.claim(JOB, 0, "b", LONG)
    assert not state.heartbeat(JOB, 0, "zombie", LONG)
    state.release(JOB, 0, "zombie", 0)
    assert state.claim(JOB, 0, "c", LONG) == "claimed"
    assert state.heartbeat(JOB, 0, "b", LONG)


def test_a_zombie_may_come_back_while_nobody_else_has_come(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 0, "slow", SHORT)
    time.sleep(SHORT * 1.5)
    assert state.heartbeat(JOB, 0, "slow", LONG)
    assert state.claim(JOB, 0, "b", LONG) == "claimed"


def test_a_zombies_commit_counts_and_ends_the_other_workers_work(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 0, "b", LONG)
    state.commit(JOB, told(0, succeeded=1, failed=0))
    assert not state.heartbeat(JOB, 0, "b", LONG)
    assert working(state) == 0
    assert outstanding(state) == 0


def test_a_released_shard_is_sent_again_later_and_its_attempt_is_not_counted(state: RedisJobStore) -> None:
    known(state, shards=1)
    state.take_next_shard(JOB, LONG)
    state.claim(JOB, 0, "a", LONG)
    state.release(JOB, 0, "a", SHORT)
    assert working(state) == 0
    assert state.take_next_shard(JOB, LONG) is None
    time.sleep(SHORT * 1.5)
    assert state.take_next_shard(JOB, LONG) == 0
    assert state.claim(JOB, 0, "b", LONG) == Claim("b", 1)


def test_a_commit_counts_once_however_often_it_is_told(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 1, "a", LONG)
    for _ in range(3):
        state.commit(JOB, told(1, succeeded=4, failed=1))
    assert counts(state) == (1, 4, 1)
    assert state.claim(JOB, 1, "b", LONG) == "committed"
    assert (working(state), outstanding(state)) == (0, 0)


def test_what_came_from_the_cache_is_counted_with_its_shard_and_told_again_after_a_wipe(state: RedisJobStore) -> None:
    known(state, committed=CommittedTotals(ShardSet.of((0,)), succeeded=3, failed=0, cached=2))
    for _ in range(2):
        state.commit(JOB, told(1, succeeded=4, failed=1, cached=4))
    progress = state.progress(JOB)
    assert progress
    assert (progress.counts.succeeded, progress.counts.cached, progress.counts.done) == (7, 6, 8)


def test_a_late_shard_that_was_committed_is_not_sent_again(state: RedisJobStore) -> None:
    known(state, shards=1)
    state.take_next_shard(JOB, SHORT)
    state.commit(JOB, told(0, 1, 0))
    time.sleep(SHORT * 1.5)
    assert state.take_next_shard(JOB, LONG) is None


def test_cancelling_stops_sending_and_claiming_and_ends_work_in_progress(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 0, "a", LONG)
    state.cancel(JOB)
    assert state.is_cancelled(JOB)
    assert state.take_next_shard(JOB, LONG) is None
    assert state.claim(JOB, 1, "b", LONG) == "cancelled"
    assert not state.heartbeat(JOB, 0, "a", LONG)
    state.release(JOB, 0, "a", 0)
    assert working(state) == 0


def test_forgetting_leaves_nothing_of_the_job(state: RedisJobStore) -> None:
    state.register(OTHER, SUMMARY, None, CommittedTotals())
    known(state)
    for shard in range(2):
        state.take_next_shard(JOB, LONG)
        state.claim(JOB, shard, "a", LONG)
        state.mark_in_progress(JOB, shard, 7)
        state.suspects(JOB, shard)
        state.mark_in_progress(JOB, shard, 8)
    state.commit(JOB, told(0, 1, 0))
    state.acquire_lock(JOB, "planner", "p", LONG)
    state.forget(JOB)
    assert state.open_jobs() == [OTHER]
    assert [name for name in state.client.scan_iter() if str(JOB) in str(name)] == []


def test_items_are_blamed_for_the_workers_that_died_over_them(state: RedisJobStore) -> None:
    known(state)
    assert state.suspects(JOB, 0) == frozenset()
    state.mark_in_progress(JOB, 0, 3)
    state.mark_in_progress(JOB, 0, 4)
    state.mark_in_progress(JOB, 1, 9)
    assert state.suspects(JOB, 0) == {4}
    state.mark_in_progress(JOB, 0, 5)
    state.clear_mark(JOB, 0)
    assert state.suspects(JOB, 0) == {4}
    assert state.suspects(JOB, 1) == {9}


def test_one_planner_at_a_time_until_its_time_is_over(state: RedisJobStore) -> None:
    assert state.acquire_lock(JOB, "planner", "a", SHORT)
    assert state.acquire_lock(JOB, "planner", "a", SHORT)
    assert not state.acquire_lock(JOB, "planner", "b", SHORT)
    time.sleep(SHORT * 1.5)
    assert state.acquire_lock(JOB, "planner", "b", SHORT)


def test_a_shard_that_the_job_does_not_have_cannot_be_claimed(state: RedisJobStore) -> None:
    known(state, shards=3)

    assert state.claim(JOB, 3, "a", LONG) == "unknown"
    assert state.claim(JOB, 7000, "a", LONG) == "unknown"
    assert outstanding(state) == 0


def test_the_map_can_be_claimed_when_all_shards_are_committed(state: RedisJobStore) -> None:
    makes_map = plan(2).model_copy(update={"map": MapRequest(method="tsne")})
    assert makes_map.makes_map
    state.register(JOB, SUMMARY, makes_map, CommittedTotals())

    state.commit(JOB, told(0, 1, 0))
    assert state.claim(JOB, 2, "a", LONG) == "unknown"
    state.commit(JOB, told(1, 1, 0))
    assert state.claim(JOB, 2, "a", LONG) == Claim("a", 1)
