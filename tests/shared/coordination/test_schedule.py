"""Turns: who is sent next is known without a look at those who wait."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.coordination.schedule import Filled, Sent, Window
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.coordination.task_queue import PRIORITY_STEPS
from heatmill.schemas import MapRequest, Priority
from heatmill.storage.keys import JobId
from tests.shared.known_jobs import LONG, SHORT, plan, told

MANY = 1_000_000


def known(state: RedisJobStore, name: str, shards: int = 3, priority: Priority = "normal") -> JobId:
    """A planned job of a tenant, as `tenant/job`."""
    job = JobId.parse(name)
    state.register(job, {"priority": priority}, plan(shards), CommittedTotals())
    return job


def fill(state: RedisJobStore, window: int, patience: float = LONG, most: int = 1000) -> list[str]:
    """What is sent, in order, as `tenant/job:shard`."""
    return [f"{each.job}:{each.shard}" for each in filled(state, window, patience, most).shards]


def filled(state: RedisJobStore, window: int, patience: float = LONG, most: int = 1000) -> Filled:
    return state.schedule.fill(Window(window, ["explain"]), patience, most, 64)


def test_tenants_take_turns_and_then_a_tenants_jobs(state: RedisJobStore) -> None:
    for name in ("a/1", "a/2", "b/1"):
        known(state, name, shards=2)
    assert fill(state, MANY) == ["a/1:0", "b/1:0", "a/2:0", "b/1:1", "a/1:1", "a/2:1"]


def test_a_higher_priority_is_sent_first_and_a_tenants_turn_counts_over_all_priorities(state: RedisJobStore) -> None:
    for tenant in ("a", "b"):
        known(state, f"{tenant}/bulk", 1, "bulk")
    known(state, "a/urgent", 1, "interactive")
    assert fill(state, MANY) == ["a/urgent:0", "b/bulk:0", "a/bulk:0"]


def test_a_tenant_whose_jobs_end_keeps_its_turn(state: RedisJobStore) -> None:
    """Else one that sends a new job each time would always be served before the others."""
    known(state, "b/long", 100)
    served = Counter[str]()
    for number in range(20):
        known(state, f"a/{number}", 1)
        for sent in filled(state, number + 1).shards:
            served[sent.job.tenant] += 1
    assert served == {"a": 10, "b": 10}


def test_a_job_that_waits_is_not_passed_by_new_ones_for_ever(state: RedisJobStore) -> None:
    old = known(state, "a/old", 2)
    assert fill(state, 1) == ["a/old:0"]
    state.client.incrby("heatmill:turn", 1001)
    known(state, "a/new", 2)
    assert fill(state, 2) == [f"{old}:1"]


def test_the_window_is_filled_once_whoever_fills_it(state: RedisJobStore) -> None:
    for tenant in range(10):
        known(state, f"t{tenant}/1", 10)
    with ThreadPoolExecutor(8) as pool:
        sent = [name for share in pool.map(lambda _: fill(state, 20), range(16)) for name in share]
    assert len(set(sent)) == len(sent) == 20


def test_bulk_shards_flow_beside_a_stream_of_posts(state: RedisJobStore) -> None:
    for number in range(300):
        known(state, f"t{number % 7}/bulk-{number}", 10, "bulk")
    bulk = Counter[bool]()
    for number in range(40):
        post = known(state, f"a/post-{number}", 1, "interactive")
        assert state.schedule.may_go_first(post, Window(8, ["explain"]))
        assert state.take_next_shard(post, LONG) == 0
        for sent in filled(state, 8).shards:
            bulk[sent.job != post] += 1
            state.commit(sent.job, told(sent.shard, 1, 0))
        state.commit(post, told(0, 1, 0))
    assert bulk == {True: 40 * 7}, "each POST takes one place of eight"


def test_an_answer_that_was_lost_is_given_again(state: RedisJobStore) -> None:
    known(state, "a/1", 3)
    answers = [state.schedule._run("fill", "one call", 2, 60_000, 16, 16, 5000, 6000, "explain") for _ in range(2)]
    assert answers[0] == answers[1]
    assert fill(state, 3) == ["a/1:2"]


def test_what_could_not_be_sent_is_sent_by_the_next_fill_unless_it_is_at_work(state: RedisJobStore) -> None:
    job = known(state, "a/1", 2)
    assert fill(state, 2) == ["a/1:0", "a/1:1"]
    assert isinstance(state.claim(job, 1, "worker", LONG), Claim)
    state.schedule.give_back([Sent(job, 0, 3), Sent(job, 1, 3)])
    assert fill(state, 2) == ["a/1:0"]


def test_a_late_shard_makes_room_and_is_sent_again_in_its_jobs_turn(state: RedisJobStore) -> None:
    known(state, "a/1", 1)
    assert fill(state, 1, SHORT) == ["a/1:0"]
    known(state, "b/1", 1)
    assert fill(state, 1) == []
    time.sleep(1.5 * SHORT)
    assert fill(state, 1) == ["b/1:0"]
    assert fill(state, 2) == ["a/1:0"]


def test_what_a_worker_of_an_earlier_version_commits_makes_room(state: RedisJobStore) -> None:
    """Its scripts know one list of deadlines, that of the job."""
    job = known(state, "a/1", 9)
    assert len(fill(state, 2)) == 2
    state.client.setbit("heatmill:{a/1}:committed", 0, 1)
    state.client.zrem("heatmill:{a/1}:inflight", "0")
    assert fill(state, 2) == [f"{job}:2"]


def test_messages_that_nobody_takes_count_though_their_shards_are_late(state: RedisJobStore) -> None:
    known(state, "a/1", 9)
    state.client.lpush("explain", "x", "y", "z")
    assert len(fill(state, 4)) == 1


def test_a_map_is_sent_after_the_last_commit(state: RedisJobStore) -> None:
    job = JobId.parse("a/1")
    state.register(job, {}, plan(1).model_copy(update={"map": MapRequest(method="tsne")}), CommittedTotals())
    assert fill(state, 9) == ["a/1:0"]
    state.commit(job, told(0, 1, 0))
    assert fill(state, 9) == ["a/1:1"]
    state.commit(job, told(1, 0, 0))
    assert filled(state, 9) == Filled((), (job,))


def test_a_complete_job_is_told_once_and_again_after_a_while(
    state: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill.coordination.schedule.COMPLETE_AGAIN_MS", 100)
    done, cancelled, working = (known(state, f"a/{name}", 1) for name in ("done", "cancelled", "working"))
    state.commit(done, told(0, 1, 0))
    state.claim(working, 0, "worker", LONG)
    state.cancel(cancelled)
    state.cancel(working)

    assert set(filled(state, 9).complete) == {done, cancelled}
    assert filled(state, 9) == Filled((), ())
    state.release(working, 0, "worker", 0)
    assert filled(state, 9).complete == (working,)
    time.sleep(0.15)
    assert set(filled(state, 9).complete) == {done, cancelled, working}


def test_so_many_complete_jobs_are_told_at_a_time_and_none_is_left_out(state: RedisJobStore) -> None:
    jobs = {known(state, f"a/{number}", 1) for number in range(10)}
    for job in jobs:
        state.commit(job, told(0, 1, 0))
    complete = [state.schedule.fill(Window(9, []), LONG, 9, 4).complete for _ in range(3)]
    assert [len(some) for some in complete] == [4, 4, 2]
    assert {job for some in complete for job in some} == jobs


def test_the_window_is_wider_the_more_workers_live(state: RedisJobStore) -> None:
    known(state, "a/1", 100)
    for number in range(5):
        state.schedule.note_worker(f"worker {number}", SHORT)
        state.schedule.note_worker(f"worker {number}", SHORT)
    assert len(fill(state, 4)) == 10, "two shards for each"
    state.client.flushall()
    known(state, "a/1", 100)
    state.schedule.note_worker("worker 0", LONG)
    assert len(fill(state, 4)) == 4, "and the setting in any case"


def test_a_worker_that_does_not_say_so_any_more_does_not_live(state: RedisJobStore) -> None:
    for number in range(5):
        state.schedule.note_worker(f"worker {number}", SHORT)
    time.sleep(1.5 * SHORT)
    state.schedule.note_worker("worker 9", LONG)
    known(state, "a/1", 100)
    assert len(fill(state, 1)) == 2
    assert state.client.zcard("heatmill:workers") == 1


def test_what_was_forgotten_of_the_turns_is_mended(state: RedisJobStore) -> None:
    """As by an older version, which knew the jobs and no turns."""
    job, done, unplanned = known(state, "a/1", 4), known(state, "a/done", 1), JobId.parse("a/unplanned")
    state.register(unplanned, {}, None, CommittedTotals())
    assert state.take_next_shard(job, LONG) == 0
    state.commit(done, told(0, 1, 0))
    names = [
        name
        for pattern in ("heatmill:ready:*", "heatmill:changed", "heatmill:outstanding")
        for name in state.client.scan_iter(pattern)
    ]
    state.client.delete(*names)
    gone = JobId.parse("a/gone")

    for _ in range(2):
        assert dict(state.schedule.mend([job, done, unplanned, gone])) == {
            job: "open",
            done: "complete",
            unplanned: "unplanned",
            gone: "unknown",
        }
    assert filled(state, 3) == Filled((Sent(job, 1, 3), Sent(job, 2, 3)), (done,))
    assert state.schedule.to_plan(9, 9) == [unplanned]


def test_a_fill_asks_redis_for_as_much_with_many_jobs_as_with_few(state: RedisJobStore) -> None:
    def commands() -> int:
        before = calls(state)
        assert len(fill(state, MANY, most=8)) == 8
        return calls(state) - before

    for number in range(10):
        known(state, f"t{number % 3}/{number}", 100, "bulk")
    fill(state, 8)
    few = commands()
    for number in range(10, 1000):
        known(state, f"t{number % 3}/{number}", 100, "bulk")
    fill(state, 20)
    assert commands() == few


def calls(state: RedisJobStore) -> int:
    """Commands that Redis has run, also inside scripts."""
    return sum(of["calls"] for of in state.client.info("commandstats").values())


def test_steps_are_those_of_the_queues_priorities() -> None:
    assert sorted(PRIORITY_STEPS.values()) == [0, 3, 6], "lua/schedule.lua names them"
