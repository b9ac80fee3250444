"""What fails unforeseen stands once a second worker has seen it, or a fresh process of the only one."""

import pytest

from heatmill.coordination.doubts import Witness, doubts_of_shard, read_doubts
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.live_workers import beat
from heatmill.errors import Unconfirmed, WorkerCrashed
from heatmill.schemas import Item, Problem, Row
from heatmill.storage.keys import JobId
from heatmill_workers.shard.second_opinion import SecondOpinion, blaming, confirm_rows, confirm_shard

NAME = doubts_of_shard(JobId("default", "0" * 32), 3)
ITEMS = [Item(index=index, id=f"item {index}", image="upload://x") for index in range(3)]


def opinion(state: RedisJobStore, worker: str, process: str = "1", patience: float = 100.0) -> SecondOpinion:
    return SecondOpinion(state, NAME, Witness(worker, process), patience)


def failed(index: int, code: str) -> Row:
    error = Problem(type=f"/problems/{code}", title="x", detail="x")
    return Row(item=f"item {index}", index=index, method="saliency", rank=0, status="failed", error=error)


@pytest.fixture
def both_live(state: RedisJobStore) -> None:
    beat(state, "a")
    beat(state, "b")


@pytest.mark.usefixtures("both_live")
def test_the_second_worker_confirms_and_a_fresh_process_of_the_first_does_not(state: RedisJobStore) -> None:
    assert opinion(state, "a").confirms(["x"]) == frozenset()
    assert opinion(state, "a", "2").confirms(["x"]) == frozenset()
    assert opinion(state, "b").confirms(["x", "y"]) == {"x"}


def test_a_fresh_process_of_the_only_worker_confirms_and_the_same_one_does_not(state: RedisJobStore) -> None:
    beat(state, "a")
    assert opinion(state, "a").confirms(["x"]) == frozenset()
    assert opinion(state, "a").confirms(["x"]) == frozenset()
    assert opinion(state, "a", "2").confirms(["x"]) == {"x"}


@pytest.mark.usefixtures("both_live")
def test_a_fresh_process_confirms_where_the_others_have_had_their_time(state: RedisJobStore) -> None:
    assert opinion(state, "a", "1", patience=0.0).confirms(["x"]) == frozenset()
    assert opinion(state, "a", "2", patience=0.0).confirms(["x"]) == {"x"}


@pytest.mark.usefixtures("both_live")
def test_who_has_a_doubt_leaves_the_shard_to_others_while_they_live(state: RedisJobStore) -> None:
    opinion(state, "a").leave_it_to_another()
    opinion(state, "a").confirms(["x"])
    for process in ("1", "2"):
        with pytest.raises(Unconfirmed):
            opinion(state, "a", process).leave_it_to_another()
    opinion(state, "b").leave_it_to_another()
    opinion(state, "b").confirms(["x"])
    opinion(state, "a").leave_it_to_another()


def test_who_is_alone_leaves_the_shard_to_a_fresh_process(state: RedisJobStore) -> None:
    opinion(state, "a").confirms(["x"])
    with pytest.raises(Unconfirmed):
        opinion(state, "a").leave_it_to_another()
    opinion(state, "a", "2").leave_it_to_another()


@pytest.mark.parametrize("code", ["internal_error", "invalid_request"])
def test_rows_that_failed_unforeseen_pass_when_confirmed(state: RedisJobStore, code: str) -> None:
    rows = [failed(0, "image_unreadable"), failed(1, code)]
    with pytest.raises(Unconfirmed, match="1 of 3 items"):
        confirm_rows(opinion(state, "a"), rows, ITEMS)
    with pytest.raises(Unconfirmed):
        confirm_rows(opinion(state, "b"), [*rows, failed(2, code)], ITEMS)
    confirm_rows(opinion(state, "a", "2"), [*rows, failed(2, code)], ITEMS)


def test_rows_that_failed_for_a_known_reason_pass_at_once(state: RedisJobStore) -> None:
    lost = Item(
        index=1, id="1", image="upload://x", error=Problem(type="/problems/internal_error", title="x", detail="x")
    )
    rows = [failed(0, "unsupported_operation"), failed(1, "internal_error")]
    confirm_rows(opinion(state, "a"), rows, [ITEMS[0], lost])
    assert read_doubts(state, NAME) == []


def test_a_shard_that_failed_as_a_whole_fails_when_confirmed(state: RedisJobStore) -> None:
    error = ZeroDivisionError("x")
    with pytest.raises(Unconfirmed, match="ZeroDivisionError"):
        confirm_shard(opinion(state, "a"), error)
    assert "ZeroDivisionError" in str(confirm_shard(opinion(state, "b"), error))


def end_over(items: list[Item], by: SecondOpinion, message: str = "CUDA error: device-side assert triggered") -> None:
    with pytest.raises(RuntimeError), blaming(by, items):
        raise RuntimeError(message)


def test_an_image_over_which_the_devices_of_two_workers_fail_is_refused_by_the_next(state: RedisJobStore) -> None:
    end_over(ITEMS, opinion(state, "a"))
    second = opinion(state, "b")
    assert second.suspects_items, "from now on one by one"
    end_over([ITEMS[1]], second)
    opinion(state, "a", "2").check(ITEMS[1])
    end_over([ITEMS[1]], opinion(state, "a", "2"))

    third = opinion(state, "b", "2")
    with pytest.raises(WorkerCrashed, match="item 1"):
        third.check(ITEMS[1])
    third.check(ITEMS[0])


def test_what_is_not_the_machine_s_fault_blames_no_item(state: RedisJobStore) -> None:
    end_over([ITEMS[0]], opinion(state, "a"), "shapes do not match")
    assert not opinion(state, "a").suspects_items


def test_nothing_is_remembered_of_a_shard_that_is_done(state: RedisJobStore) -> None:
    done = opinion(state, "a")
    done.confirms(["x"])
    assert state.client.ttl(NAME) > 0
    done.drop()
    assert state.client.keys("*") == []
