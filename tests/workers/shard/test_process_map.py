"""A job with a map, from submission to finish: the real model, real storage, real Redis, no Celery."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.schemas import Job
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import feed, plan
from heatmill_workers.job_maps.features import load_features
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import accept, sent, upload
from tests.workers.photos import noise
from tests.workers.processed import control_of

TSNE = {"method": "tsne", "perplexity": 5}
MAP_FILES = ("jsonl", "parquet", "png", "json")


def planned(worker: WorkerContext, images: int, *more: str, **request: object) -> JobId:
    """An accepted and planned job of noise and other images; no message of it was delivered."""
    uris = [*(upload(worker.storage, noise(seed)) for seed in range(images)), *more]
    body = {"items": [{"image": uri} for uri in uris], "methods": [], "map": TSNE, "shard_items": 4, **request}
    job = accept(worker.storage, **body)  # type: ignore[arg-type]
    plan(control_of(worker), job)
    return job


def work_off(worker: WorkerContext) -> list[int]:
    """Deliver messages until there are none; which shards they were for."""
    delivered = []
    while messages := sent(worker.state):
        for name, number in messages:
            process_shard(worker, JobId.parse(name), number)
            delivered.append(number)
        feed(control_of(worker))
    return delivered


def finished(worker: WorkerContext, job: JobId) -> Job:
    finish(control_of(worker), job)
    found = records.load_final(worker.storage, job)
    assert found
    return found


def commit_records(worker: WorkerContext, job: JobId) -> list[bytes]:
    """Of all shards, without that of the map."""
    names = [name for name in records.committed_names(worker.storage, job) if name.part is not None]
    return [worker.storage.get(keys.commit(job, *name)) for name in names]


def map_files(worker: WorkerContext, job: JobId) -> dict[str, bytes]:
    return {ending: worker.storage.get(keys.job_map(job, ending)) for ending in MAP_FILES}


def test_a_map_is_made_after_the_last_shard_and_shows_every_item_but_the_bad_one(worker: WorkerContext) -> None:
    job = planned(worker, 6, upload(worker.storage, b"not an image"))

    assert work_off(worker) == [0, 1, 2]

    made = records.load_map(worker.storage, job)
    assert made
    assert made.drawn
    assert (made.items, made.left_out, made.error) == (6, 1, None)
    assert made.drawn.perplexity == pytest.approx(5 / 3, rel=1e-5)
    assert made.drawn.features == "classifier input"
    files = map_files(worker, job)
    points = [json.loads(line) for line in files["jsonl"].splitlines()]
    assert [point["index"] for point in points] == list(range(6))
    assert pq.read_table(io.BytesIO(files["parquet"])).to_pylist() == points
    assert Image.open(io.BytesIO(files["png"])).size == (1300, 1010)


def test_each_item_has_one_row_for_the_map_and_a_bad_one_says_why(worker: WorkerContext) -> None:
    job = planned(worker, 3, upload(worker.storage, b"not an image"), methods=[{"name": "grad_cam"}])
    assert load_job(worker.storage, worker.state, job).counts.total == 8

    work_off(worker)

    rows = list(records.load_rows(worker.storage, job, 0))
    assert [(row.index, row.method) for row in rows] == [(n, name) for n in range(4) for name in ("grad_cam", "tsne")]
    assert [row.status for row in rows] == ["succeeded"] * 6 + ["failed"] * 2
    assert all(row.target and row.heatmap is None for row in rows if row.method == "tsne" and not row.error)
    assert {row.error.type.rsplit("/", 1)[1] for row in rows if row.error} == {"image_unreadable"}
    job_now = finished(worker, job)
    assert (job_now.state, job_now.counts.done, job_now.counts.total) == ("partly_failed", 8, 8)
    assert job_now.map
    assert job_now.map.state == "ready"


def test_a_job_is_not_complete_before_its_map_is(worker: WorkerContext) -> None:
    job = planned(worker, 3)
    (message,) = sent(worker.state)
    process_shard(worker, job, message[1])

    job_now = load_job(worker.storage, worker.state, job)
    assert (job_now.state, job_now.progress, job_now.done) == ("running", 1.0, False)
    assert job_now.map
    assert job_now.map.state == "pending"
    feed(control_of(worker))
    feed(control_of(worker))
    assert sent(worker.state) == [(str(job), 1)]


def test_shards_and_the_map_run_twice_and_redis_wiped_between_give_the_same_bytes(worker: WorkerContext) -> None:
    job = planned(worker, 6)
    work_off(worker)
    before = {**map_files(worker, job), "features": worker.storage.get(keys.features(job, 0, 3))}
    results = commit_records(worker, job)

    worker.state.client.flushall()
    worker.storage.delete([keys.commit(job, 2), keys.job_map(job, "json"), keys.job_map(job, "png")])
    repair(control_of(worker))
    assert work_off(worker) == [2]
    process_shard(worker, job, 2)
    process_shard(worker, job, 0)

    assert {**map_files(worker, job), "features": worker.storage.get(keys.features(job, 0, 3))} == before
    assert commit_records(worker, job) == results
    assert finished(worker, job).state == "succeeded"


def test_a_shard_that_is_computed_again_writes_the_same_features(worker: WorkerContext) -> None:
    job = planned(worker, 4)
    process_shard(worker, job, 0)
    before = worker.storage.get(keys.features(job, 0, 2))
    worker.storage.delete([keys.commit(job, 0, 2)])
    worker.state.forget(job)
    plan(control_of(worker), job)

    process_shard(worker, job, 0)

    assert worker.storage.get(keys.features(job, 0, 2)) == before
    features = load_features(worker.storage, job, 0)
    assert [*features] == [0, 1, 2, 3]
    assert {vector.shape for vector in features.values()} == {(1280,)}
    assert all(np.ptp(vector) > 0 for vector in features.values())


def test_a_map_that_is_there_already_is_not_made_again(worker: WorkerContext) -> None:
    job = planned(worker, 3)
    work_off(worker)
    worker.storage.delete([keys.commit(job, 1), keys.job_map(job, "png")])
    worker.state.client.flushall()
    repair(control_of(worker))

    assert work_off(worker) == [1]

    assert not worker.storage.exists(keys.job_map(job, "png"))
    assert finished(worker, job).state == "succeeded"


def test_too_few_good_items_fail_the_map_and_not_the_heatmaps(worker: WorkerContext) -> None:
    bad = upload(worker.storage, b"not an image")
    job = planned(worker, 2, bad, methods=[{"name": "grad_cam"}])

    work_off(worker)

    job_now = finished(worker, job)
    assert job_now.counts.succeeded == 4
    assert job_now.map
    assert job_now.map.state == "failed"
    assert job_now.map.error
    assert "2 of 3 succeeded" in job_now.map.error.detail
    assert not worker.storage.exists(keys.job_map(job, "png"))


def test_a_job_of_two_items_says_so_in_its_plan_and_still_draws_heatmaps(worker: WorkerContext) -> None:
    job = planned(worker, 2, methods=[{"name": "grad_cam"}])
    found = records.load_plan(worker.storage, job)
    assert found
    assert found.map_error
    assert "takes 3 to" in found.map_error.detail

    job_from_progress = load_job(worker.storage, worker.state, job)
    assert job_from_progress.map
    assert (job_from_progress.map.state, job_from_progress.map.error) == ("failed", found.map_error)
    worker.state.forget(job)
    assert load_job(worker.storage, worker.state, job).map == job_from_progress.map
    plan(control_of(worker), job)

    assert set(work_off(worker)) == {0}

    rows = list(records.load_rows(worker.storage, job, 0))
    assert [row.status for row in rows] == ["succeeded", "failed"] * 2
    job_now = finished(worker, job)
    assert job_now.map
    assert (job_now.state, job_now.map.state) == ("partly_failed", "failed")
    assert job_now.map.error == found.map_error


def test_a_map_that_kills_workers_is_given_up(worker: WorkerContext) -> None:
    job = planned(worker, 3)
    sent(worker.state)
    process_shard(worker, job, 0)
    feed(control_of(worker))
    for attempt in range(worker.settings.max_attempts):
        worker.state.claim(job, 1, f"attempt {attempt}", 0.0)

    work_off(worker)

    job_now = finished(worker, job)
    assert job_now.map
    assert job_now.map.error
    assert "workers failed" in job_now.map.error.detail


def test_a_cancelled_job_makes_no_map(worker: WorkerContext) -> None:
    job = planned(worker, 3)
    sent(worker.state)
    process_shard(worker, job, 0)
    worker.storage.write_once(keys.cancelled(job), b"{}")
    worker.state.cancel(job)

    process_shard(worker, job, 1)
    feed(control_of(worker))

    assert sent(worker.state) == []
    job_now = finished(worker, job)
    assert job_now.map
    assert job_now.map.state == "cancelled"
