"""A shard that meets death, fencing, a broken model or a store that is away: nothing is lost, nothing done twice."""

import time
from dataclasses import replace
from typing import Any, cast

import pytest

from heatmill.errors import StorageUnavailable
from heatmill.jobs import records
from heatmill.jobs import registration as registering
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill_workers.control.finish import finish
from heatmill_workers.control.schedule import feed
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard import run
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.explain import explain_items
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import pass_time, sent, upload
from tests.workers.photos import noise
from tests.workers.processed import METHODS, control_of, planned_fresh, rows_of


def test_a_shard_held_by_another_worker_is_left_alone(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    worker.state.claim(job, 0, "another", 30)

    process_shard(worker, job, 0)

    assert not worker.storage.exists(keys.commit(job, 0, 0))


def test_a_worker_that_lost_its_claim_commits_nothing(worker: WorkerContext, models: ModelStore) -> None:
    class TakenOver:
        """Hands out the model after another worker has taken the shard."""

        def get(self, name: str) -> LoadedModel:
            worker.state.client.hset(f"heatmill:{{{job}}}:claims", "0", "theirs 9999999999999")
            return models.get(name)

    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])

    process_shard(replace(worker, models=cast("ModelStore", TakenOver())), job, 0)

    assert not worker.storage.exists(keys.commit(job, 0, 0))
    assert worker.state.client.hget(f"heatmill:{{{job}}}:claims", "0") == "theirs 9999999999999"


def test_a_job_cancelled_in_the_middle_of_a_shard_gives_its_claim_back_at_once(
    worker: WorkerContext, models: ModelStore
) -> None:
    class Cancelled:
        """Hands out the model after the job was cancelled."""

        def get(self, name: str) -> LoadedModel:
            worker.state.cancel(job)
            return models.get(name)

    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])

    process_shard(replace(worker, models=cast("ModelStore", Cancelled())), job, 0)

    assert not worker.storage.exists(keys.commit(job, 0, 0))
    progress = worker.state.progress(job)
    assert progress
    assert progress.working == 0


def test_a_shard_whose_model_kills_the_worker_is_given_up(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    for attempt in ("first", "second", "third"):
        worker.state.claim(job, 0, attempt, 0.001)
        time.sleep(0.01)

    process_shard(worker, job, 0)

    assert all(row.error and row.error.type.endswith("worker_crashed") for row in rows_of(worker, job))


def test_a_cancelled_job_commits_nothing_more(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    worker.state.cancel(job)

    process_shard(worker, job, 0)

    assert not worker.storage.exists(keys.commit(job, 0, 0))


def test_a_store_that_goes_away_costs_no_attempt_and_the_shard_is_sent_again(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])

    def down(*_: object, **__: object) -> None:
        raise StorageUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(worker.storage, "put", down)
        patch.setattr("heatmill_workers.shard.giving_back.RETRY_SECONDS", 0.0)
        process_shard(worker, job, 0)

    assert worker.state.client.hget(f"heatmill:{{{job}}}:attempts", "0") == "0"
    feed(control_of(worker))
    assert sent(worker.state) == [(str(job), 0)]


def test_the_item_that_killed_a_worker_twice_fails_alone(worker: WorkerContext) -> None:
    items = [{"id": f"item {seed}", "image": upload(worker.storage, noise(seed))} for seed in range(3)]
    job = planned_fresh(worker, items=items, methods=[{"name": "grad_cam"}])
    for attempt in ("first", "second"):
        worker.state.claim(job, 0, attempt, 0.001)
        time.sleep(0.01)
    worker.state.mark_in_progress(job, 0, 1)

    process_shard(worker, job, 0)

    failed = {row.item: row.error.type for row in rows_of(worker, job) if row.error}
    assert list(failed) == ["item 1"]
    assert failed["item 1"].endswith("worker_crashed")


def test_a_worker_that_was_frozen_past_its_jobs_end_commits_nothing(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])

    def cancelled_meanwhile(*arguments: Any) -> Any:
        worker.storage.write_once(keys.cancelled(job), b"{}")
        worker.state.cancel(job)
        pass_time(worker.state, job)
        finish(control_of(worker), job)
        return explain_items(*arguments)

    monkeypatch.setattr(run, "explain_items", cancelled_meanwhile)
    process_shard(worker, job, 0)

    assert load_job(worker.storage, worker.state, job).counts.cancelled == len(METHODS)
    assert not list(records.committed_names(worker.storage, job))


def test_a_job_that_was_made_known_after_its_end_is_forgotten_by_its_first_shard(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    worker.storage.write_once(keys.cancelled(job), b"{}")
    worker.state.cancel(job)
    finish(control_of(worker), job)
    # As by a POST that is slow to go on after it was accepted.
    accepted, written = records.load_request(worker.storage, job), records.load_plan(worker.storage, job)
    registering.register_new(worker.state, accepted, written)
    assert load_job(worker.storage, worker.state, job).state == "queued"

    process_shard(worker, job, 0)

    assert worker.state.open_jobs() == []
    assert load_job(worker.storage, worker.state, job).state == "cancelled"
    assert not list(records.committed_names(worker.storage, job))


def test_a_commit_record_that_comes_after_a_cancelled_jobs_end_is_taken_back(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    write_once = S3Storage.write_once

    def late(storage: S3Storage, key: str, *arguments: Any) -> None:
        if key == keys.commit(job, 0, 0):
            write_once(storage, keys.cancelled(job), b"{}")
            worker.state.cancel(job)
            pass_time(worker.state, job)
            finish(control_of(worker), job)
            # Stores tell the time of a write in seconds.
            time.sleep(1.1)
        write_once(storage, key, *arguments)

    monkeypatch.setattr(S3Storage, "write_once", late)
    process_shard(worker, job, 0)

    assert load_job(worker.storage, worker.state, job).counts.cancelled == len(METHODS)
    assert not list(records.committed_names(worker.storage, job))
    assert worker.state.open_jobs() == []


def test_a_record_of_a_job_that_was_cancelled_and_has_not_ended_stands(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    write_once = S3Storage.write_once

    def cancelled_meanwhile(storage: S3Storage, key: str, *arguments: Any) -> None:
        write_once(storage, key, *arguments)
        if key == keys.commit(job, 0, 0):
            write_once(storage, keys.cancelled(job), b"{}")
            worker.state.cancel(job)

    monkeypatch.setattr(S3Storage, "write_once", cancelled_meanwhile)
    process_shard(worker, job, 0)
    finish(control_of(worker), job)

    assert load_job(worker.storage, worker.state, job).counts.succeeded == len(METHODS)
    assert list(records.committed_names(worker.storage, job)) == [(0, 0)]


def test_a_record_that_lands_between_the_counting_and_the_end_of_a_cancelled_job_is_removed(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    write_once = S3Storage.write_once
    held_back: list[Any] = []

    def late(storage: S3Storage, key: str, data: bytes, *arguments: Any) -> None:
        if key == keys.commit(job, 0, 0):
            held_back.append(data)
            write_once(storage, keys.cancelled(job), b"{}")
            worker.state.cancel(job)
            pass_time(worker.state, job)
            finish(control_of(worker), job)
        elif key == keys.final(job):
            # The counting is over, and the frozen worker's request is through.
            write_once(storage, keys.commit(job, 0, 0), held_back[0])
            write_once(storage, key, data, *arguments)
        else:
            write_once(storage, key, data, *arguments)

    monkeypatch.setattr(S3Storage, "write_once", late)
    process_shard(worker, job, 0)

    assert load_job(worker.storage, worker.state, job).counts.cancelled == len(METHODS)
    assert not list(records.committed_names(worker.storage, job))
