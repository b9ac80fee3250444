"""Planning may be cut off, or done by two at once, over a source that changes: one plan, each item in one shard."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from heatmill.jobs.planner import MAX_SHARD_ITEMS, inline_items, ranks, shard_items, store_plan, write_plan
from heatmill.jobs.records import load_plan, load_shard
from heatmill.schemas import AcceptedJob, Item, ItemRequest, Plan
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from tests.shared.accepted import accepted_job

# On a real store: the fixture is the same for every example, and every example has a job of its own.
ON_A_STORE = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes here
)
NAMES = st.lists(st.integers(0, 40).map(lambda number: f"{number:02}"), unique=True, max_size=12).map(sorted)


class CutOffError(Exception):
    """The planner's process died."""


class Source:
    """Names in order, which may change; somebody may act after so many names were listed."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.act: dict[int, Callable[[], Any]] = {}

    def list_items(self, after: Item | None) -> Iterator[Item]:
        """As a prefix is listed: what comes after a name, in order, as it is now."""
        index, last = (0, "") if after is None else (after.index + 1, after.id)
        while later := [name for name in self.names if name > last]:
            self.act.pop(index, lambda: None)()
            later = [name for name in self.names if name > last]
            if not later:
                return
            last = later[0]
            yield Item(index=index, id=last, image=f"s3://bucket/{last}")
            index += 1


def identity(accepted: AcceptedJob) -> JobId:
    return JobId(accepted.tenant, accepted.id)


def planned(storage: S3Storage, job: JobId) -> list[Item]:
    """The items of all shards of the stored plan, checked against it."""
    plan = load_plan(storage, job)
    assert plan is not None
    shards = [load_shard(storage, job, number) for number in range(plan.shards)]
    items = [item for shard in shards for item in shard]
    assert all(shards)
    assert [item.index for item in items] == list(range(plan.items))
    assert plan.results == sum(ranks(item, plan.top_k) for item in items) * len(plan.methods)
    return items


def fail() -> None:
    raise CutOffError


def test_a_plan_agrees_with_its_shards(storage: S3Storage) -> None:
    accepted = accepted_job(shard_items=2, top_k=3)
    source = Source(["a", "b", "c", "d", "e"])
    plan = write_plan(storage, identity(accepted), accepted, source.list_items)
    assert (plan.shards, plan.items, plan.results) == (3, 5, 5 * 2 * 3)
    assert [item.id for item in planned(storage, identity(accepted))] == source.names


def test_a_source_without_items_is_a_plan_without_shards(storage: S3Storage) -> None:
    accepted = accepted_job()
    plan = write_plan(storage, identity(accepted), accepted, Source([]).list_items)
    assert (plan.shards, plan.items, plan.results) == (0, 0, 0)


def test_planning_again_changes_nothing_and_lists_nothing(storage: S3Storage) -> None:
    accepted = accepted_job()
    first = write_plan(storage, identity(accepted), accepted, Source(["a", "b", "c"]).list_items)

    def list_items(after: Item | None) -> Iterator[Item]:
        raise AssertionError("the source is not asked again")

    assert write_plan(storage, identity(accepted), accepted, list_items) == first


def test_a_planner_that_was_cut_off_is_continued_after_what_is_written(storage: S3Storage) -> None:
    accepted = accepted_job(shard_items=2)
    job = identity(accepted)
    source = Source(["a", "b", "c", "d", "e"])
    source.act[4] = fail
    with pytest.raises(CutOffError):
        write_plan(storage, job, accepted, source.list_items)
    assert load_plan(storage, job) is None
    source.names = ["a", "a2", "b", "c", "d", "e"]
    write_plan(storage, job, accepted, source.list_items)
    assert [item.id for item in planned(storage, job)] == ["a", "b", "c", "d", "e"]


@ON_A_STORE
@given(
    before=NAMES,
    after=NAMES,
    size=st.integers(1, 4),
    enters=st.integers(0, 8),
    first_dies=st.none() | st.integers(0, 10),
    second_dies=st.none() | st.integers(0, 10),
)
def test_two_planners_and_a_changing_source_give_one_plan_with_every_item_in_one_shard(
    storage: S3Storage,
    before: list[str],
    after: list[str],
    size: int,
    enters: int,
    first_dies: int | None,
    second_dies: int | None,
) -> None:
    accepted = accepted_job(shard_items=size)
    job = identity(accepted)
    first, second, third = Source(before), Source(after), Source(after)
    plans: list[Plan] = []

    def plan_with(source: Source) -> None:
        with suppress(CutOffError):
            plans.append(write_plan(storage, job, accepted, source.list_items))

    def change() -> None:
        plan_with(second)
        first.names = after

    for source, dies in ((first, first_dies), (second, second_dies)):
        if dies is not None:
            source.act[dies] = fail
    first.act[enters] = change
    plan_with(first)
    plan_with(third)

    items = planned(storage, job)
    names = [item.id for item in items]
    assert set(map(Plan.model_dump_json, plans)) == {load_plan(storage, job).model_dump_json()}  # type: ignore[union-attr]
    assert names == sorted(set(names)), "nothing twice, and in order"
    assert set(names) <= set(before) | set(after)
    assert set(names) >= set(before) & set(after), "what was there all the time is in the job"


def test_the_first_plan_stands(storage: S3Storage) -> None:
    accepted = accepted_job()
    job = identity(accepted)
    first = Plan(shards=1, items=1, results=1, model="m", methods=accepted.request.methods, top_k=1)
    assert store_plan(storage, job, first) == first
    assert store_plan(storage, job, first.model_copy(update={"items": 2})) == first


def test_a_named_target_is_one_result_and_else_there_are_top_k() -> None:
    assert ranks(Item(index=0, id="a", target=7), top_k=5) == 1
    assert ranks(Item(index=0, id="a", target=0), top_k=5) == 1
    assert ranks(Item(index=0, id="a"), top_k=5) == 5


@pytest.mark.parametrize(
    ("seconds_per_item", "expected"), [(1.0, 15), (0.3, 50), (100.0, 1), (1e-9, MAX_SHARD_ITEMS), (15.0, 1)]
)
def test_a_shard_is_so_many_seconds_of_work(seconds_per_item: float, expected: int) -> None:
    assert shard_items(seconds_per_item, shard_seconds=15.0) == expected


def test_items_of_the_request_are_listed_after_any_of_them() -> None:
    requests = [
        ItemRequest(image="s3://b/0"),
        ItemRequest(id="one", image="s3://b/1", target=3),
        ItemRequest(image="x"),
    ]
    list_items = inline_items(requests)
    items = list(list_items(None))
    assert [(item.index, item.id, item.target) for item in items] == [(0, "0", None), (1, "one", 3), (2, "2", None)]
    assert [list(list_items(item)) for item in items] == [items[1:], items[2:], []]


def test_a_label_must_be_an_index_by_now() -> None:
    with pytest.raises(TypeError, match="espresso"):
        inline_items([ItemRequest(image="s3://b/0", target="espresso")])


def test_shards_go_by_key_order_up_to_the_largest_job() -> None:
    names = [keys.shard(JobId("t", "j"), number) for number in (0, 9, 10, 99_999, 999_999)]
    assert names == sorted(names)
