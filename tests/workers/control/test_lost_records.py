"""The store has lost a plan or a shard's file, or what it gives cannot be read: the job still ends."""

import json
from dataclasses import replace
from uuid import uuid4

import pytest

from heatmill.coordination.task_queue import FINISH, PLAN
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import feed, plan
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import pass_time, rung, sent, upload
from tests.workers.photos import noise
from tests.workers.processed import control_of, planned_fresh, rows_of


@pytest.mark.parametrize("damaged", [False, True], ids=["lost", "damaged"])
def test_a_lost_plan_is_made_again(worker: WorkerContext, damaged: bool) -> None:
    items = [{"image": upload(worker.storage, noise(seed))} for seed in range(3)]
    job = planned_fresh(worker, items=items, shard_items=1, methods=[{"name": "saliency"}])
    process_shard(worker, job, 1)
    _lose(worker, keys.plan(job), damaged=damaged)

    _to_the_end(worker, job)

    assert load_job(worker.storage, worker.state, job).state == "succeeded"
    assert [row.index for row in rows_of(worker, job)] == [0, 1, 2]


@pytest.mark.parametrize("damaged", [False, True], ids=["lost", "damaged"])
def test_a_shard_whose_file_is_lost_is_what_the_request_names(worker: WorkerContext, damaged: bool) -> None:
    items = [{"id": f"photo {seed}", "image": upload(worker.storage, noise(seed))} for seed in range(3)]
    job = planned_fresh(worker, items=items, shard_items=2, methods=[{"name": "saliency"}])
    _lose(worker, keys.shard(job, 1), damaged=damaged)

    _to_the_end(worker, job)

    assert [(row.item, row.status) for row in rows_of(worker, job)] == [
        (f"photo {seed}", "succeeded") for seed in range(3)
    ]


def test_the_items_of_a_lost_shard_of_a_long_list_fail_by_their_numbers(worker: WorkerContext, sources: str) -> None:
    images = [upload(worker.storage, noise(seed)) for seed in range(3)]
    lines = "".join(json.dumps({"id": f"photo {seed}", "image": image}) + "\n" for seed, image in enumerate(images))
    worker.storage.of_bucket(sources).put("photos.jsonl", lines.encode())
    source = {"uri": f"s3://{sources}/photos.jsonl"}
    job = planned_fresh(worker, source=source, shard_items=2, methods=[{"name": "saliency"}])
    _lose(worker, keys.shard(job, 0), damaged=False)

    _to_the_end(worker, job)

    assert [(row.item, row.index, row.status) for row in rows_of(worker, job)] == [
        ("0", 0, "failed"),
        ("1", 1, "failed"),
        ("photo 2", 2, "succeeded"),
    ]
    final = load_job(worker.storage, worker.state, job)
    assert (final.state, final.counts.failed) == ("partly_failed", 2)


def _lose(worker: WorkerContext, key: str, *, damaged: bool) -> None:
    worker.storage.delete([key])
    if damaged:
        worker.storage.put(key, b"{")


def _to_the_end(worker: WorkerContext, job: JobId) -> None:
    """What the timer, feed and a worker do, until the job is done; each attempt is another process'."""
    control = control_of(worker)
    for _ in range(20):
        repair(control)
        for named in rung(worker.state, PLAN):
            plan(control, named)
        feed(control)
        for named in rung(worker.state, FINISH):
            finish(control, named)
        for _, shard in sent(worker.state):
            process_shard(replace(worker, process=uuid4().hex), job, shard)
        pass_time(worker.state, job)
        if worker.storage.exists(keys.final(job)):
            return
    raise AssertionError("the job does not end")
