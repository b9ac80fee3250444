"""Plan and feed on real storage and a real Redis, with the explaining left out."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest

from heatmill.coordination.schedule import Window
from heatmill.errors import ClaimLost
from heatmill.jobs import records
from heatmill.jobs.planner import inline_items, plan_steps, write_plan
from heatmill.jobs.registration import register
from heatmill.jobs.status import load_job
from heatmill.schemas import Plan
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control import plan as planner
from heatmill_workers.control.finish import finish
from heatmill_workers.control.schedule import ControlContext, feed, plan
from tests.workers.controlled import ITEMS, commit, settle
from tests.workers.jobs import accept, sent


def test_a_planned_job_has_every_item_in_one_shard_and_is_fed(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=3)

    plan(control, job)

    shards = [records.load_shard(control.storage, job, number) for number in range(3)]
    assert [item.index for shard in shards for item in shard] == list(range(7))
    assert [len(shard) for shard in shards] == [3, 3, 1]
    assert sent(control.state) == [(str(job), 0), (str(job), 1), (str(job), 2)]
    assert load_job(control.storage, control.state, job).counts.total == 7


def test_planning_twice_changes_nothing(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    before = {entry.key: control.storage.get(entry.key) for entry in control.storage.list(job.prefix)}
    control.state.client.flushall()

    plan(control, job)

    assert {entry.key: control.storage.get(entry.key) for entry in control.storage.list(job.prefix)} == before


def test_a_queue_that_no_worker_reads_does_not_grow(control: ControlContext) -> None:
    impatient = replace(control, settings=control.settings.model_copy(update={"queue_patience_seconds": 0.001}))
    plan(impatient, accept(control.storage, items=ITEMS, shard_items=1))
    for _ in range(5):
        time.sleep(0.005)
        feed(impatient)

    assert len(sent(control.state)) == 3


def test_feed_never_has_more_than_the_window_outstanding(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=1)
    plan(control, job)
    feed(control)
    assert [shard for _, shard in sent(control.state)] == [0, 1, 2]

    commit(control, job, 1)
    feed(control)
    feed(control)

    assert [shard for _, shard in sent(control.state)] == [3]


@pytest.mark.parametrize("feeds", [2, 16])
def test_any_number_of_feeds_at_once_fill_the_window_once(control: ControlContext, feeds: int) -> None:
    jobs = [accept(control.storage, tenant, items=ITEMS, shard_items=1) for tenant in ("a", "b", "c")]
    for job in jobs:
        plan(control, job)
    control.state.client.flushall()
    for job in jobs:
        register(control.storage, control.state, job)
    with ThreadPoolExecutor(feeds) as pool:
        for _ in range(5):
            together = Barrier(feeds)

            def feed_at_once(_: int, together: Barrier = together) -> None:
                together.wait()
                feed(control)

            list(pool.map(feed_at_once, range(feeds)))

            shards = sent(control.state)
            assert sorted(name.split("/")[0] for name, _ in shards) == ["a", "b", "c"], "each has its turn"
            for name, shard in shards:
                commit(control, JobId.parse(name), shard)


def test_a_shard_that_a_post_has_taken_meanwhile_counts_as_outstanding(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=1)
    plan(control, job)
    sent(control.state)
    commit(control, job, 0)
    assert control.state.take_next_shard(job, 60) == 3

    feed(control)
    assert sent(control.state) == []

    commit(control, job, 1)
    feed(control)
    assert sent(control.state) == [(str(job), 4)]


def test_feed_serves_tenants_in_turn_and_then_their_jobs(control: ControlContext) -> None:
    first, second = (accept(control.storage, "flood", 1, items=ITEMS) for _ in range(2))
    small = accept(control.storage, "small", 1, items=ITEMS[:2])
    narrow = replace(control, settings=control.settings.model_copy(update={"window_shards": 1}))
    served = []
    plan(narrow, first)
    plan(narrow, second)
    plan(narrow, small)
    for _ in range(8):
        for name, shard in sent(control.state):
            served.append(name)
            commit(control, JobId.parse(name), shard)
        feed(narrow)

    tenants = [name.split("/")[0] for name in served]
    assert tenants == ["flood", "small", "flood", "small", "flood", "flood", "flood", "flood"]
    of_flood = [name for name in served if name.startswith("flood")]
    assert of_flood == [str(first), str(second)] * 3


def test_it_is_known_of_each_priority_whether_jobs_wait_for_their_turns(control: ControlContext) -> None:
    def may_go_first(priority: str) -> bool:
        job = accept(control.storage, items=ITEMS[:1], priority=priority)
        request = records.load_request(control.storage, job)
        write_plan(control.storage, job, request, inline_items(request.request.items or ()))
        register(control.storage, control.state, job)
        return control.state.schedule.may_go_first(job, Window(3, ["explain"]))

    plan(control, accept(control.storage, items=ITEMS[:6], priority="bulk"))
    assert may_go_first("bulk"), "all three are sent, which is as many as may be"
    feed(control)
    assert not may_go_first("bulk")
    assert may_go_first("normal")


def test_a_job_of_higher_priority_is_served_first(control: ControlContext) -> None:
    bulk = accept(control.storage, shard_items=1, items=ITEMS, priority="bulk")
    urgent = accept(control.storage, shard_items=1, items=ITEMS[:4], priority="interactive")
    plan(control, bulk)
    for _, shard in sent(control.state):
        commit(control, bulk, shard)

    plan(control, urgent)

    assert sent(control.state) == [(str(urgent), 0), (str(urgent), 1), (str(urgent), 2)]


def test_planning_a_job_that_is_done_does_not_bring_it_back(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS[:1])
    plan(control, job)
    commit(control, job, 0)
    finish(control, job)
    # As by a POST that is slow to go on after it was accepted.
    register(control.storage, control.state, job)

    plan(control, job)

    assert control.state.open_jobs() == []
    assert load_job(control.storage, control.state, job).state == "succeeded"


def test_a_job_that_ends_while_it_is_planned_does_not_come_back(
    control: ControlContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(control.storage, items=ITEMS)
    register(control.storage, control.state, job)

    def ended_meanwhile(*arguments: Any) -> Generator[None, None, Plan]:
        written = yield from plan_steps(*arguments)
        control.storage.write_once(keys.cancelled(job), b"{}")
        control.state.cancel(job)
        finish(control, job)
        return written

    monkeypatch.setattr(planner, "plan_steps", ended_meanwhile)
    plan(control, job)

    assert control.state.open_jobs() == []
    assert load_job(control.storage, control.state, job).state == "cancelled"


def test_a_cancelled_job_is_not_planned_to_its_end(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    register(control.storage, control.state, job)
    control.state.cancel(job)

    with pytest.raises(ClaimLost):
        plan(control, job)

    assert not control.storage.exists(keys.plan(job))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://nowhere-at-all/x/", "there is no such bucket"),
        ("s3://{sources}/empty/", "the source lists no images"),
        ("s3://{sources}/list.csv", "CSV and other tables are not read"),
        ("s3://{sources}/missing.jsonl", "there is no such object: missing.jsonl"),
    ],
)
def test_a_source_that_lists_nothing_fails_the_job_with_the_reason(
    control: ControlContext, sources: str, uri: str, reason: str
) -> None:
    job = accept(control.storage, source={"uri": uri.format(sources=sources)})

    plan(control, job)
    settle(control)

    final = load_job(control.storage, control.state, job)
    assert final.state == "failed"
    assert final.error
    assert reason in final.error.detail
