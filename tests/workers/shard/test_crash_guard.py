"""The item that a worker died over is found and blamed; the others are not."""

import pytest

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.errors import WorkerCrashed
from heatmill.schemas import Item
from heatmill.storage.keys import JobId
from heatmill_workers.shard.crash_guard import CrashGuard
from heatmill_workers.shard.lease import ClaimedShard

JOB = JobId("default", "0" * 32)
ITEMS = [Item(index=index, id=f"item {index}", image="upload://x") for index in range(4)]


def attempt(state: RedisJobStore, number: int, deadly: set[int]) -> list[str]:
    """One attempt at the shard: the fates of its items, up to the one that kills the worker."""
    watch = CrashGuard(state, ClaimedShard(JOB, 0, Claim("token", number)), max_attempts=3)
    fates = []
    for item in ITEMS:
        try:
            watch.enter(item)
        except WorkerCrashed:
            fates.append("blamed")
            continue
        if item.index in deadly:
            return [*fates, "died"]
        fates.append("fine")
    return fates


def test_the_first_attempt_notes_nothing(state: RedisJobStore) -> None:
    assert attempt(state, 1, set()) == ["fine"] * 4
    assert state.client.keys("*") == []


def test_a_deadly_item_is_blamed_on_the_third_attempt_and_the_shard_completes(state: RedisJobStore) -> None:
    assert attempt(state, 1, {2})[-1] == "died"
    assert attempt(state, 2, {2})[-1] == "died"
    assert attempt(state, 3, {2}) == ["fine", "fine", "blamed", "fine"]


def test_each_further_deadly_item_costs_one_attempt_more(state: RedisJobStore) -> None:
    for number in (1, 2, 3):
        assert attempt(state, number, {0, 3})[-1] == "died"
    assert attempt(state, 4, {0, 3}) == ["blamed", "fine", "fine", "blamed"]


def test_a_shard_that_kills_before_any_item_is_given_up_after_the_limit(state: RedisJobStore) -> None:
    with pytest.raises(WorkerCrashed, match="each of 3 attempts"):
        attempt(state, 4, set())


def test_a_shard_full_of_deadly_items_is_given_up_too(state: RedisJobStore) -> None:
    deadly = {0, 1, 2, 3}
    state.client.sadd(f"heatmill:{{{JOB}}}:crashed", *(f"0:{index}" for index in range(10, 20)))
    for number in range(2, 7):
        assert attempt(state, number, deadly)[-1] in ("died", "blamed")
    with pytest.raises(WorkerCrashed):
        attempt(state, 7, deadly)


def test_an_attempt_that_was_given_back_blames_nobody(state: RedisJobStore) -> None:
    attempt(state, 2, {1})
    state.clear_mark(JOB, 0)
    assert attempt(state, 2, set()) == ["fine"] * 4


@pytest.mark.parametrize("other", [JobId("default", "1" * 32), JobId("other", "0" * 32)])
def test_another_job_s_items_are_not_blamed(state: RedisJobStore, other: JobId) -> None:
    attempt(state, 2, {1})
    watch = CrashGuard(state, ClaimedShard(other, 0, Claim("token", 2)), max_attempts=3)
    watch.enter(ITEMS[1])
