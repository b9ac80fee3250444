"""What an earlier job made is taken from it, byte for byte and at no device time; and never where it would be wrong."""

import time
from dataclasses import replace
from threading import Semaphore
from typing import Any

import pytest

from heatmill import images
from heatmill.errors import StorageUnavailable
from heatmill.images import ImageLimits
from heatmill.jobs import records
from heatmill.jobs.registration import register
from heatmill.jobs.status import load_job
from heatmill.schemas import Row
from heatmill.storage import keys
from heatmill.storage.bucket import AccessRefused, S3Storage
from heatmill_workers.control.finish import finish
from heatmill_workers.result_cache.cache import ResultCache
from heatmill_workers.shard import prefetch as prepare
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.photos import noise
from tests.workers.processed import (
    control_of,
    counted,
    entries,
    objects,
    origins,
    planned,
    rows_of,
    shards,
    submitted,
)

METHODS = [{"name": "saliency"}, {"name": "attention"}]
IMAGES = {f"image {seed}": noise(seed) for seed in range(3)}


def placed(row: Row) -> Row:
    """A row without what differs between two jobs that made the same."""
    assert row.heatmap
    assert row.attribution
    assert row.preview
    return row.model_copy(
        update={
            "item": "",
            "index": 0,
            "heatmap": row.heatmap.model_copy(update={"key": ""}),
            "attribution": row.attribution.model_copy(update={"key": ""}),
            "preview": row.preview.model_copy(update={"key": "", "range": None}),
            "provenance": {name: value for name, value in row.provenance.items() if name != "cached_from"},
        }
    )


def test_a_second_submission_costs_no_forward_pass_and_gives_the_same_bytes(worker: WorkerContext, tenant: str) -> None:
    with counted() as calls:
        first = submitted(worker, tenant, IMAGES, methods=METHODS, top_k=2)
    assert calls
    # Other ids, another order, other shards.
    again = {name.upper(): IMAGES[name] for name in reversed(IMAGES)}

    with counted() as calls:
        second = submitted(worker, tenant, again, methods=METHODS, top_k=2, shard_items=2)

    assert calls == []
    made = {(row.item.upper(), row.method, row.rank): row for row in rows_of(worker, first)}
    taken = {(row.item, row.method, row.rank): row for row in rows_of(worker, second)}
    assert len(made) == 12
    assert taken.keys() == made.keys()
    for name, row in taken.items():
        assert placed(row) == placed(made[name])
        assert objects(worker, row) == objects(worker, made[name])
        assert row.provenance["cached_from"] == first.job
        assert row.heatmap
        assert row.heatmap.key.startswith(second.prefix)
    assert [row.item for row in rows_of(worker, second)[::4]] == ["IMAGE 2", "IMAGE 1", "IMAGE 0"]


def test_the_hits_are_counted_by_the_record_by_redis_and_by_the_job(worker: WorkerContext, tenant: str) -> None:
    submitted(worker, tenant, {"a": noise(0)}, methods=METHODS)
    job = submitted(worker, tenant, IMAGES, methods=METHODS, shard_items=1)

    headers = [records.load_header(worker.storage, job, number, 0) for number in range(3)]
    from_redis = load_job(worker.storage, worker.state, job).counts
    worker.state.client.flushall()
    from_records = load_job(worker.storage, worker.state, job).counts
    register(worker.storage, worker.state, job)
    rebuilt = load_job(worker.storage, worker.state, job).counts
    finish(control_of(worker), job)
    final = records.load_final(worker.storage, job)

    assert [header and header.cached for header in headers] == [2, 0, 0]
    assert (from_redis.total, from_redis.succeeded, from_redis.cached) == (6, 6, 2)
    assert from_redis == from_records == rebuilt == (final and final.counts)


def test_only_the_methods_that_are_missing_are_made(worker: WorkerContext, tenant: str) -> None:
    first = submitted(worker, tenant, IMAGES, methods=METHODS[:1])
    second = submitted(worker, tenant, IMAGES, methods=METHODS[::-1])

    taken = {(row.item, row.method): row.provenance.get("cached_from") for row in rows_of(worker, second)}

    assert taken == {(name, "attention"): None for name in IMAGES} | {(name, "saliency"): first.job for name in IMAGES}
    third = submitted(worker, tenant, IMAGES, methods=METHODS)
    assert origins(worker, third) == {first.job, second.job}


def test_a_result_is_the_same_whatever_else_its_job_asks_for(worker: WorkerContext, tenant: str) -> None:
    """What the key leaves out of a plan: a method takes its gradients from the pass that predicts, or from its own."""
    alone = {"methods": METHODS[:1]}
    others: list[dict[str, Any]] = [
        {"methods": METHODS},
        {"methods": [{"name": "integrated_gradients", "params": {"steps": 2, "max_error": None}}, *METHODS]},
        {"methods": METHODS[:1], "map": {"method": "tsne"}},
        {"methods": METHODS[:1], "layout": "webdataset"},
        {"methods": METHODS[:1], "shard_items": 1},
    ]
    made = [
        [
            (row.item, row.target, row.checks, row.verdict, *objects(worker, row))
            for row in rows_of(worker, submitted(worker, tenant, IMAGES, cache=False, **request))
            if row.method == "saliency"
        ]
        for request in (alone, *others)
    ]
    assert len(made[0]) == len(IMAGES)
    assert all(results == made[0] for results in made[1:])


def test_known_and_unknown_images_share_a_group(worker: WorkerContext, tenant: str) -> None:
    first = submitted(worker, tenant, {"known": IMAGES["image 1"]}, methods=METHODS)
    second = submitted(worker, tenant, {**IMAGES, "bad": b"not an image"}, methods=METHODS, shard_items=16)

    rows = rows_of(worker, second)

    assert [(row.item, row.method, row.status, row.provenance.get("cached_from")) for row in rows] == [
        (name, method["name"], "failed" if name == "bad" else "succeeded", first.job if name == "image 1" else None)
        for name in (*IMAGES, "bad")
        for method in METHODS
    ]


def test_with_a_map_the_features_are_made_and_the_heatmaps_taken(worker: WorkerContext, tenant: str) -> None:
    first = submitted(worker, tenant, IMAGES, methods=METHODS)
    with counted() as calls:
        second = submitted(worker, tenant, IMAGES, methods=METHODS, map={"method": "tsne"})

    assert calls
    assert {row.method: row.provenance.get("cached_from") for row in rows_of(worker, second)} == {
        "saliency": first.job,
        "attention": first.job,
        "tsne": None,
    }
    assert worker.storage.exists(keys.features(second, 0, 0))


def test_an_upload_of_which_all_is_known_is_not_fetched(worker: WorkerContext, tenant: str) -> None:
    first = submitted(worker, tenant, IMAGES, methods=METHODS[:1])
    whole, partly = (planned(worker, tenant, IMAGES, methods=METHODS[:count]) for count in (1, 2))
    worker.storage.delete([entry.key for entry in worker.storage.list(f"{tenant}/blobs/")])

    process_shard(worker, whole, 0)
    process_shard(worker, partly, 0)

    assert origins(worker, whole) == {first.job}
    errors = [row.error for row in rows_of(worker, partly)]
    assert len(errors) == 6
    assert all(error and error.type.endswith("image_not_found") for error in errors)


def test_an_image_in_a_bucket_is_known_by_its_bytes_and_not_decoded(
    worker: WorkerContext, tenant: str, sources: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = worker.storage.of_bucket(sources)
    bucket.put("a.png", noise(1))
    bucket.put("b.png", noise(1))
    first = submitted(worker, tenant, {"a": f"s3://{sources}/a.png"}, methods=METHODS)

    with monkeypatch.context() as patch:
        patch.delattr(prepare, "decode_reduced")
        second = submitted(worker, tenant, {"b": f"s3://{sources}/b.png"}, methods=METHODS)
    bucket.put("a.png", noise(2))
    changed = submitted(worker, tenant, {"a": f"s3://{sources}/a.png"}, methods=METHODS)

    assert origins(worker, second) == {first.job}
    assert origins(worker, changed) == {None}


def test_what_params_name_in_a_bucket_may_change_and_is_not_cached(
    worker: WorkerContext, tenant: str, sources: str
) -> None:
    worker.storage.of_bucket(sources).put("grey.png", noise(7))
    background = {"background": [f"s3://{sources}/grey.png"], "samples": 2}
    methods = [{"name": "gradient_shap", "params": background}, {"name": "saliency"}]

    first, second = (submitted(worker, tenant, {"a": noise(1)}, methods=methods) for _ in range(2))

    assert origins(worker, second) == {None, first.job}
    assert [row.method for row in rows_of(worker, second) if "cached_from" in row.provenance] == ["saliency"]
    assert len(entries(worker, tenant)) == 1


def test_failures_are_not_cached(worker: WorkerContext, tenant: str) -> None:
    images = {"good": noise(1), "bad": b"not an image"}
    for _ in range(2):
        job = submitted(worker, tenant, images, methods=[{"name": "grad_cam"}, {"name": "saliency"}])
    assert {(row.item, row.method): row.status for row in rows_of(worker, job)} == {
        ("good", "grad_cam"): "failed",
        ("good", "saliency"): "succeeded",
        ("bad", "grad_cam"): "failed",
        ("bad", "saliency"): "failed",
    }
    assert len(entries(worker, tenant)) == 1


def test_a_job_may_ask_for_new_results_and_leaves_them_for_others(worker: WorkerContext, tenant: str) -> None:
    jobs = [submitted(worker, tenant, IMAGES, methods=METHODS, cache=cache) for cache in (True, False, True)]
    assert [origins(worker, job) for job in jobs] == [{None}, {None}, {jobs[1].job}]


def test_an_operator_may_do_without(worker: WorkerContext, tenant: str) -> None:
    without = replace(worker, settings=worker.settings.model_copy(update={"result_cache": False}))
    submitted(without, tenant, IMAGES, methods=METHODS)
    assert entries(worker, tenant) == []
    submitted(worker, tenant, IMAGES, methods=METHODS)
    assert origins(worker, submitted(without, tenant, IMAGES, methods=METHODS)) == {None}


def test_an_entry_does_not_tell_what_the_caller_called_the_image(worker: WorkerContext, tenant: str) -> None:
    submitted(worker, tenant, {"Jane Doe": noise(1)}, methods=METHODS)
    for key in entries(worker, tenant):
        assert b"Jane Doe" not in worker.storage.get(key)


def test_tenants_do_not_share(worker: WorkerContext, tenant: str) -> None:
    submitted(worker, tenant, IMAGES, methods=METHODS)
    assert origins(worker, submitted(worker, f"{tenant}x", IMAGES, methods=METHODS)) == {None}


def test_however_many_images_are_looked_up_no_more_are_decoded_at_once_than_the_settings_say(
    worker: WorkerContext, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, most = Semaphore(2), []

    def decode(data: bytes, limits: ImageLimits, least_side: int | None, decoder: images.JpegDecoder) -> images.Photo:
        most.append(turns.acquire(blocking=False))
        try:
            # Long enough for a third to come along, if it may.
            time.sleep(0.05)
            return images.decode_reduced(data, limits, least_side, decoder)
        finally:
            turns.release()

    monkeypatch.setattr(prepare, "decode_reduced", decode)
    two = replace(worker, settings=worker.settings.model_copy(update={"decode_threads": 2}))
    many = {f"image {seed}": noise(seed) for seed in range(12)}
    submitted(two, tenant, many, methods=METHODS[:1], shard_items=12)

    assert most == [True] * 12


def test_a_worker_that_dies_before_it_keeps_its_results_loses_nothing_else(
    worker: WorkerContext, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    first = planned(worker, tenant, IMAGES, methods=METHODS)
    with monkeypatch.context() as patch:
        patch.setattr(ResultCache, "store", die)
        with pytest.raises(SystemExit):
            process_shard(worker, first, 0)
    worker.state.client.delete(f"heatmill:{{{first}}}:claims")

    process_shard(worker, first, 0)
    second = submitted(worker, tenant, IMAGES, methods=METHODS)

    assert load_job(worker.storage, worker.state, first).counts.succeeded == 6
    assert origins(worker, second) == {None}
    assert origins(worker, submitted(worker, tenant, IMAGES, methods=METHODS)) == {second.job}


@pytest.mark.parametrize("fault", [StorageUnavailable, AccessRefused])
def test_a_store_that_fails_the_cache_alone_fails_no_job(
    worker: WorkerContext, tenant: str, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    submitted(worker, tenant, IMAGES, methods=METHODS)
    asked = []

    def put(storage: S3Storage, key: str, *more: object) -> None:
        if "/cache/" in key:
            raise fault("down")
        original_put(storage, key, *more)  # type: ignore[arg-type]

    def get(storage: S3Storage, key: str, max_bytes: int | None = None) -> bytes:
        if "/cache/" in key:
            asked.append(key)
            raise fault("down")
        return original_get(storage, key, max_bytes)

    original_put, original_get = S3Storage.put, S3Storage.get
    with monkeypatch.context() as patch:
        patch.setattr(S3Storage, "put", put)
        patch.setattr(S3Storage, "get", get)
        second = submitted(worker, tenant, IMAGES, methods=METHODS)

    assert origins(worker, second) == {None}
    assert shards(worker, second) == 1
    # A store that does not answer is not waited for again and again; each image may be at it once.
    assert len(asked) == 6 if fault is AccessRefused else 1 <= len(asked) <= len(IMAGES)
