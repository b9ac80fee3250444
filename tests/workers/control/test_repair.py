"""The timer rebuilds what Redis has forgotten, and takes out what is over; with the explaining left out."""

import time

from heatmill.coordination.shard_set import CommittedTotals
from heatmill.coordination.task_queue import PLAN
from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import ControlContext, plan
from tests.workers.controlled import ITEMS, commit, settle
from tests.workers.jobs import accept, rung, sent


def test_a_damaged_job_and_a_stray_marker_do_not_keep_the_others_from_being_fed(control: ControlContext) -> None:
    damaged, good = accept(control.storage, items=ITEMS), accept(control.storage, items=ITEMS[:2])
    plan(control, good)
    control.storage.put(keys.request(damaged), b"{")
    control.storage.put(f"{keys.OPEN_PREFIX}stray", b"")
    control.state.client.flushall()

    repair(control)

    assert sent(control.state) == [(str(good), 0)]


def test_a_job_that_is_over_is_forgotten_where_redis_remembers_an_older_state(control: ControlContext) -> None:
    ended, deleted, opened = (accept(control.storage, items=ITEMS[:1]) for _ in range(3))
    for job in (ended, deleted, opened):
        plan(control, job)
    for job in (ended, deleted):
        commit(control, job, 0)
        finish(control, job)
    records.mark_deleted(control.storage, deleted)
    for job in (ended, deleted):
        control.state.register(job, {"priority": "normal"}, None, CommittedTotals())
    control.storage.delete([keys.open_marker(opened)])

    repair(control)

    assert control.state.open_jobs() == [opened]
    assert control.storage.exists(keys.open_marker(opened)), "a job that is open has its marker again"


def test_a_redis_that_was_started_again_is_told_of_cancels_that_it_does_not_remember(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    repair(control)
    control.storage.write_once(keys.cancelled(job), b"{}")

    repair(control)
    assert not control.state.is_cancelled(job), "asked once a start, not every few seconds"

    control.state.note_checked("another start")
    repair(control)
    assert control.state.is_cancelled(job)


def test_a_shard_that_nobody_claims_is_sent_again_when_the_patience_is_over(control: ControlContext) -> None:
    hasty = ControlContext(
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


def test_a_wiped_redis_is_rebuilt_from_storage_and_the_job_goes_on(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    commit(control, job, 2)
    control.state.client.flushall()

    repair(control)

    assert load_job(control.storage, control.state, job).counts.succeeded == 2
    assert [shard for _, shard in sent(control.state)] == [0, 1, 3]


def test_a_job_that_was_accepted_while_redis_was_away_is_planned_by_the_timer(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)

    repair(control)

    assert load_job(control.storage, control.state, job).state == "queued"
    assert rung(control.state, PLAN) == {job}


def test_a_finish_that_was_cut_off_after_final_json_is_completed(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS[:1])
    plan(control, job)
    commit(control, job, 0)
    finish(control, job)
    control.storage.put(keys.open_marker(job), b"")

    repair(control)
    settle(control)

    assert not control.storage.exists(keys.open_marker(job))
    assert control.state.open_jobs() == []


def test_a_marker_without_a_job_is_left_to_the_request_that_may_still_be_at_it(control: ControlContext) -> None:
    job = JobId("default", "0" * 32)
    control.storage.put(keys.open_marker(job), b"")

    repair(control)

    assert control.storage.exists(keys.open_marker(job))
    control.storage.delete([keys.open_marker(job)])
