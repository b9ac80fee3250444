"""Why work stands still, and who lives, as Redis remembers it for a while."""

import time

import pytest

from heatmill.coordination.conditions import (
    UNFIT_WORKERS,
    clear_condition,
    note_condition,
    note_fit,
    note_unfit,
    read_condition,
    unfit_workers,
)
from heatmill.coordination.job_store import RedisJobStore, key
from heatmill.coordination.live_workers import LIFE_SECONDS, beat, leave, live_workers, others_live
from heatmill.coordination.rests import LONGEST_REST_SECONDS, count_end, end_rests, is_first_lack, rest_seconds
from heatmill.coordination.schedule import WORKERS
from heatmill.storage.keys import JobId

JOB = JobId("default", "0" * 32)


def test_a_job_whose_work_is_given_back_for_long_says_the_newest_reason_and_since_when(state: RedisJobStore) -> None:
    note_condition(state, JOB, "one/a: the disk is full")
    assert read_condition(state, JOB) is None, "another worker may be at it"
    since = time.time() - 60
    state.client.hset(key(JOB, "condition"), "since", since)
    note_condition(state, JOB, "two/a: no memory")

    condition = read_condition(state, JOB)

    assert condition is not None
    assert (condition.type, condition.detail) == ("waiting_for_worker", "two/a: no memory")
    assert condition.since.timestamp() == pytest.approx(since)
    clear_condition(state, JOB)
    assert read_condition(state, JOB) is None


def test_where_no_worker_lives_every_job_says_what_the_last_one_ended_of(state: RedisJobStore) -> None:
    beat(state, "one/a")
    note_unfit(state, "one/a", "no driver")
    assert read_condition(state, JOB) is None
    leave(state, "one/a")

    condition = read_condition(state, JOB)

    assert condition is not None
    assert condition.detail == "no worker is alive; the last to end, one/a, said: no driver"
    note_fit(state, "one/a")
    assert unfit_workers(state) == {}
    assert read_condition(state, JOB) is None


def test_a_worker_that_has_ceased_to_say_so_is_dead(state: RedisJobStore) -> None:
    beat(state, "one/a")
    beat(state, "two/a")
    assert live_workers(state) == {"one/a", "two/a"}
    assert others_live(state, "one/a")
    state.client.zincrby(WORKERS, -1000 * LIFE_SECONDS, "two/a")
    assert live_workers(state) == {"one/a"}
    assert not others_live(state, "one/a")


def test_rests_grow_to_a_minute_and_end_with_the_first_work_that_is_done(state: RedisJobStore) -> None:
    rests = [rest_seconds(state, "one/a")]
    for _ in range(20):
        count_end(state, "one/a")
        rests.append(rest_seconds(state, "one/a"))

    assert rests[:5] == [0, 5, 10, 20, 40]
    assert set(rests[5:]) == {LONGEST_REST_SECONDS}
    assert rest_seconds(state, "two/a") == 0
    end_rests(state, "one/a")
    assert rest_seconds(state, "one/a") == 0


def test_a_worker_ends_once_for_each_thing_that_it_lacks(state: RedisJobStore) -> None:
    asked = [("one/a", "birds"), ("one/a", "birds"), ("one/a", "cats"), ("two/a", "birds")]
    assert [is_first_lack(state, *each) for each in asked] == [True, False, True, True]


def test_everything_of_this_passes_by_itself(state: RedisJobStore) -> None:
    note_condition(state, JOB, "x")
    note_unfit(state, "one/a", "x")
    beat(state, "one/a")
    count_end(state, "one/a")
    is_first_lack(state, "one/a", "birds")

    found = {str(name): state.client.ttl(str(name)) for name in state.client.scan_iter("*")}

    assert {UNFIT_WORKERS, WORKERS, key(JOB, "condition")} < found.keys()
    assert len(found) == 5
    assert all(seconds > 0 for seconds in found.values())
