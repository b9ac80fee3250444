"""Plan, feed, finish and repair on real storage and a real Redis, with the explaining left out."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pyarrow.parquet as pq
import pytest

from heatmill import keys, records
from heatmill.catalogue import Catalogue
from heatmill.committed import Committed
from heatmill.dispatch import FINISH, PLAN, Dispatcher
from heatmill.errors import ClaimLost, Overtaken
from heatmill.keys import JobId
from heatmill.planning import write_plan
from heatmill.progress import read_job
from heatmill.registering import register
from heatmill.schemas import Plan, Row, Target
from heatmill.settings import Settings
from heatmill.state import LAST_TURN, Claim, RedisJobStore
from heatmill.storage import S3Storage
from heatmill_workers import control as controlling
from heatmill_workers.control import Control, feed, plan
from heatmill_workers.finishing import finish
from heatmill_workers.repairing import repair
from tests.workers.jobs import accept, rung, sent

ITEMS = [{"image": f"upload://{number:064x}"} for number in range(7)]


@pytest.fixture
def control(settings: Settings, storage: S3Storage, state: RedisJobStore, dispatcher: Dispatcher) -> Control:
    storage.delete([entry.key for entry in storage.list(keys.OPEN_PREFIX)])
    return Control(storage, state, dispatcher, Catalogue((), ()), settings.model_copy(update={"window_shards": 3}))


def commit(control: Control, job: JobId, number: int) -> None:
    """Do what a worker does at the end of a shard, with one row per item."""
    items = records.load_shard(control.storage, job, number)
    target = Target(index=1, label="goldfish", probability=0.5)
    rows = [
        Row(item=item.id, index=item.index, method="saliency", rank=0, status="succeeded", target=target)
        for item in items
    ]
    header, body = records.commit_record(number, rows, 1.0, "test")
    control.storage.write_once(keys.commit(job, number), body)
    control.state.commit(job, number, header.succeeded, header.failed)


def settle(control: Control) -> None:
    """Feed, then do what the control worker would: finish the jobs that it was rung for."""
    feed(control)
    for job in rung(control.state, FINISH):
        finish(control, job)


def test_a_planned_job_has_every_item_in_one_shard_and_is_fed(control: Control) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=3)

    plan(control, job)

    shards = [records.load_shard(control.storage, job, number) for number in range(3)]
    assert [item.index for shard in shards for item in shard] == list(range(7))
    assert [len(shard) for shard in shards] == [3, 3, 1]
    assert sent(control.state) == [(str(job), 0), (str(job), 1), (str(job), 2)]
    assert read_job(control.storage, control.state, job).counts.total == 7


def test_planning_twice_changes_nothing(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    before = {entry.key: control.storage.get(entry.key) for entry in control.storage.list(job.prefix)}
    control.state.client.flushall()

    plan(control, job)

    assert {entry.key: control.storage.get(entry.key) for entry in control.storage.list(job.prefix)} == before


def test_a_queue_that_no_worker_reads_does_not_grow(control: Control) -> None:
    impatient = replace(control, settings=control.settings.model_copy(update={"queue_patience_seconds": 0.001}))
    plan(impatient, accept(control.storage, items=ITEMS, shard_items=1))
    for _ in range(5):
        time.sleep(0.005)
        feed(impatient)

    assert len(sent(control.state)) == 3


def test_feed_never_has_more_than_the_window_outstanding(control: Control) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=1)
    plan(control, job)
    feed(control)
    assert [shard for _, shard in sent(control.state)] == [0, 1, 2]

    commit(control, job, 1)
    feed(control)
    feed(control)

    assert [shard for _, shard in sent(control.state)] == [3]


@pytest.mark.parametrize("feeds", [2, 16])
def test_any_number_of_feeds_at_once_fill_the_window_once(control: Control, feeds: int) -> None:
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


def test_what_was_freed_while_a_feed_counted_is_filled(control: Control) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=1)
    plan(control, job)
    sent(control.state)
    seen = control.state.turns()[LAST_TURN]
    commit(control, job, 0)
    feed(control)

    with pytest.raises(Overtaken):
        control.state.take(job, 60, seen)
    assert control.state.take(job, 60, control.state.turns()[LAST_TURN]) == 4


def test_feed_serves_tenants_in_turn_and_then_their_jobs(control: Control) -> None:
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


def test_it_is_known_of_each_priority_whether_jobs_wait_for_their_turns(control: Control) -> None:
    state = control.state
    plan(control, accept(control.storage, items=ITEMS[:2], priority="bulk"))
    assert not state.turns_are_waited_for("bulk")

    state.client.flushall()
    plan(control, accept(control.storage, items=ITEMS[:6], priority="bulk"))
    assert not state.turns_are_waited_for("bulk"), "all three are sent, which is as many as may be"

    plan(control, accept(control.storage, items=ITEMS[:2], priority="bulk"))
    assert state.turns_are_waited_for("bulk")
    assert not state.turns_are_waited_for("normal")


def test_a_job_of_higher_priority_is_served_first(control: Control) -> None:
    bulk = accept(control.storage, shard_items=1, items=ITEMS, priority="bulk")
    urgent = accept(control.storage, shard_items=1, items=ITEMS[:4], priority="interactive")
    plan(control, bulk)
    for _, shard in sent(control.state):
        commit(control, bulk, shard)

    plan(control, urgent)

    assert sent(control.state) == [(str(urgent), 0), (str(urgent), 1), (str(urgent), 2)]


def test_a_damaged_job_and_a_stray_marker_do_not_keep_the_others_from_being_fed(control: Control) -> None:
    damaged, good = accept(control.storage, items=ITEMS), accept(control.storage, items=ITEMS[:2])
    plan(control, good)
    control.storage.put(keys.request(damaged), b"{")
    control.storage.put(f"{keys.OPEN_PREFIX}stray", b"")
    control.state.client.flushall()

    repair(control)

    assert sent(control.state) == [(str(good), 0)]


def test_two_finishers_at_once_write_one_final_job(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    for number in range(4):
        commit(control, job, number)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(finish, control, job) for _ in range(4)]:
            done.result()

    assert read_job(control.storage, control.state, job).state == "succeeded"
    assert control.state.open_jobs() == []


def test_a_job_that_is_not_complete_is_not_finished_whoever_asks(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    commit(control, job, 0)

    finish(control, job)
    assert not control.storage.exists(keys.final(job))

    control.state.client.flushall()
    finish(control, job)
    assert not control.storage.exists(keys.final(job))
    assert control.storage.exists(keys.open_marker(job))


def test_a_job_of_which_redis_says_more_than_the_store_is_rebuilt_and_not_finished(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    for number in range(4):
        commit(control, job, number)
    control.storage.delete([keys.commit(job, 2)])
    sent(control.state)

    settle(control)
    assert not control.storage.exists(keys.final(job))

    repair(control)
    assert sent(control.state) == [(str(job), 2)]


def test_a_job_that_is_over_is_forgotten_where_redis_remembers_an_older_state(control: Control) -> None:
    ended, deleted, opened = (accept(control.storage, items=ITEMS[:1]) for _ in range(3))
    for job in (ended, deleted, opened):
        plan(control, job)
    for job in (ended, deleted):
        commit(control, job, 0)
        finish(control, job)
    records.bury(control.storage, deleted)
    for job in (ended, deleted):
        control.state.register(job, {"priority": "normal"}, None, Committed())
    control.storage.delete([keys.open_marker(opened)])

    repair(control)

    assert control.state.open_jobs() == [opened]
    assert control.storage.exists(keys.open_marker(opened)), "a job that is open has its marker again"


def test_a_redis_that_was_started_again_is_told_of_cancels_that_it_does_not_remember(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    repair(control)
    control.storage.write_once(keys.cancelled(job), b"{}")

    repair(control)
    assert not control.state.is_cancelled(job), "asked once a start, not every few seconds"

    control.state.note_checked("another start")
    repair(control)
    assert control.state.is_cancelled(job)


def test_planning_a_job_that_is_done_does_not_bring_it_back(control: Control) -> None:
    job = accept(control.storage, items=ITEMS[:1])
    plan(control, job)
    commit(control, job, 0)
    finish(control, job)
    # As by a POST that is slow to go on after it was accepted.
    register(control.storage, control.state, job)

    plan(control, job)

    assert control.state.open_jobs() == []
    assert read_job(control.storage, control.state, job).state == "succeeded"


def test_a_job_that_ends_while_it_is_planned_does_not_come_back(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(control.storage, items=ITEMS)
    register(control.storage, control.state, job)

    def ended_meanwhile(*arguments: Any) -> Plan:
        written = write_plan(*arguments)
        control.storage.write_once(keys.cancelled(job), b"{}")
        control.state.cancel(job)
        finish(control, job)
        return written

    monkeypatch.setattr(controlling, "write_plan", ended_meanwhile)
    plan(control, job)

    assert control.state.open_jobs() == []
    assert read_job(control.storage, control.state, job).state == "cancelled"


def test_a_cancelled_job_is_not_planned_to_its_end(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    register(control.storage, control.state, job)
    control.state.cancel(job)

    with pytest.raises(ClaimLost):
        plan(control, job)

    assert not control.storage.exists(keys.plan(job))


def test_a_shard_that_nobody_claims_is_sent_again_when_the_patience_is_over(control: Control) -> None:
    hasty = Control(
        control.storage,
        control.state,
        control.dispatcher,
        control.catalogue,
        control.settings.model_copy(update={"queue_patience_seconds": 0.05}),
    )
    job = accept(control.storage, items=ITEMS[:1])
    plan(hasty, job)
    assert sent(control.state) == [(str(job), 0)]
    time.sleep(0.1)

    repair(hasty)

    assert sent(control.state) == [(str(job), 0)]


def test_finish_writes_the_table_and_the_final_job_and_forgets(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    for number in range(4):
        commit(control, job, number)

    settle(control)

    final = read_job(control.storage, control.state, job)
    assert (final.state, final.done, final.counts.succeeded, final.progress) == ("succeeded", True, 7, 1.0)
    assert not control.storage.exists(keys.open_marker(job))
    assert control.state.open_jobs() == []
    table = pq.read_table(io.BytesIO(control.storage.get(keys.table(job, 0))))
    assert table["index"].to_pylist() == list(range(7))


def test_finishing_twice_is_finishing_once(control: Control) -> None:
    job = accept(control.storage, items=ITEMS[:1])
    plan(control, job)
    commit(control, job, 0)
    finish(control, job)
    final = control.storage.get(keys.final(job))

    finish(control, job)

    assert control.storage.get(keys.final(job)) == final


def test_a_wiped_redis_is_rebuilt_from_storage_and_the_job_goes_on(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    commit(control, job, 2)
    control.state.client.flushall()

    repair(control)

    assert read_job(control.storage, control.state, job).counts.succeeded == 2
    assert [shard for _, shard in sent(control.state)] == [0, 1, 3]


def test_a_job_that_was_accepted_while_redis_was_away_is_planned_by_the_timer(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)

    repair(control)

    assert read_job(control.storage, control.state, job).state == "queued"
    assert rung(control.state, PLAN) == {job}


def test_a_finish_that_was_cut_off_after_final_json_is_completed(control: Control) -> None:
    job = accept(control.storage, items=ITEMS[:1])
    plan(control, job)
    commit(control, job, 0)
    finish(control, job)
    control.storage.put(keys.open_marker(job), b"")

    repair(control)
    settle(control)

    assert not control.storage.exists(keys.open_marker(job))
    assert control.state.open_jobs() == []


def test_a_cancelled_job_finishes_with_what_is_committed(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    commit(control, job, 0)
    control.storage.put(keys.cancelled(job), b"")
    control.state.cancel(job)

    settle(control)

    final = read_job(control.storage, control.state, job)
    assert (final.state, final.counts.succeeded, final.counts.cancelled) == ("cancelled", 2, 5)


def test_a_cancelled_job_waits_for_the_worker_that_still_holds_a_shard(control: Control) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    claim = control.state.claim(job, 0, "token", 30)
    assert isinstance(claim, Claim)
    control.storage.put(keys.cancelled(job), b"")
    control.state.cancel(job)

    feed(control)

    assert not read_job(control.storage, control.state, job).done


def test_a_marker_without_a_job_is_left_to_the_request_that_may_still_be_at_it(control: Control) -> None:
    job = JobId("default", "0" * 32)
    control.storage.put(keys.open_marker(job), b"")

    repair(control)

    assert control.storage.exists(keys.open_marker(job))
    control.storage.delete([keys.open_marker(job)])


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://nowhere-at-all/x/", "there is no such bucket"),
        ("s3://{sources}/empty/", "the source lists no images"),
        ("s3://{sources}/missing.jsonl", "there is no such object: missing.jsonl"),
    ],
)
def test_a_source_that_lists_nothing_fails_the_job_with_the_reason(
    control: Control, sources: str, uri: str, reason: str
) -> None:
    job = accept(control.storage, source={"uri": uri.format(sources=sources)})

    plan(control, job)
    settle(control)

    final = read_job(control.storage, control.state, job)
    assert final.state == "failed"
    assert final.error
    assert reason in final.error.detail
