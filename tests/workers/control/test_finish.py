"""A job becomes terminal once, when it is complete, with what its commit records say."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq
import pytest

from heatmill.coordination.job_store import Claim
from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill_workers.control.finish import finish
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import ControlContext, feed, plan
from tests.workers.controlled import ITEMS, commit, settle
from tests.workers.jobs import accept, sent


def test_two_finishers_at_once_write_one_final_job(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    for number in range(4):
        commit(control, job, number)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(finish, control, job) for _ in range(4)]:
            done.result()

    assert load_job(control.storage, control.state, job).state == "succeeded"
    assert control.state.open_jobs() == []


def test_a_job_that_is_not_complete_is_not_finished_whoever_asks(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    commit(control, job, 0)

    finish(control, job)
    assert not control.storage.exists(keys.final(job))

    control.state.client.flushall()
    finish(control, job)
    assert not control.storage.exists(keys.final(job))
    assert control.storage.exists(keys.open_marker(job))


def test_finish_writes_the_table_and_the_final_job_and_forgets(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    for number in range(4):
        commit(control, job, number)

    settle(control)

    final = load_job(control.storage, control.state, job)
    assert (final.state, final.done, final.counts.succeeded, final.progress) == ("succeeded", True, 7, 1.0)
    assert not control.storage.exists(keys.open_marker(job))
    assert control.state.open_jobs() == []
    table = pq.read_table(io.BytesIO(control.storage.get(keys.table(job, 0))))
    assert table["index"].to_pylist() == list(range(7))


def test_finishing_twice_is_finishing_once(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS[:1])
    plan(control, job)
    commit(control, job, 0)
    finish(control, job)
    final = control.storage.get(keys.final(job))

    finish(control, job)

    assert control.storage.get(keys.final(job)) == final


def test_a_cancelled_job_finishes_with_what_is_committed(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    commit(control, job, 0)
    control.storage.put(keys.cancelled(job), b"")
    control.state.cancel(job)

    settle(control)

    final = load_job(control.storage, control.state, job)
    assert (final.state, final.counts.succeeded, final.counts.cancelled) == ("cancelled", 2, 5)


def test_a_cancelled_job_waits_for_the_worker_that_still_holds_a_shard(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    claim = control.state.claim(job, 0, "token", 30)
    assert isinstance(claim, Claim)
    control.storage.put(keys.cancelled(job), b"")
    control.state.cancel(job)

    feed(control)

    assert not load_job(control.storage, control.state, job).done


def test_a_job_of_which_redis_says_more_than_the_store_is_rebuilt_and_not_finished(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    for number in range(4):
        commit(control, job, number)
    control.storage.delete([keys.commit(job, 2, 0)])
    sent(control.state)

    settle(control)
    assert not control.storage.exists(keys.final(job))

    repair(control)
    assert sent(control.state) == [(str(job), 2)]


def test_a_record_that_another_finisher_has_counted_stands(
    control: ControlContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    control.storage.write_once(keys.cancelled(job), b"{}")
    control.state.cancel(job)
    write_once = S3Storage.write_once

    def overtaken(storage: S3Storage, key: str, *arguments: Any) -> None:
        if key == keys.final(job):
            # Frozen for so long that its hold is over; the other counts what has come since.
            monkeypatch.undo()
            control.state.client.delete(f"heatmill:{{{job}}}:finisher")
            commit(control, job, 0)
            finish(control, job)
        write_once(storage, key, *arguments)

    monkeypatch.setattr(S3Storage, "write_once", overtaken)
    finish(control, job)

    assert load_job(control.storage, control.state, job).counts.succeeded == 2
    assert list(records.committed_names(control.storage, job)) == [(0, 0), (0, 1)]
