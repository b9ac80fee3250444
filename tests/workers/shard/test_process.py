"""A shard from claim to commit: the real model, real storage, real Redis, no Celery."""

import hashlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination.conditions import read_condition
from heatmill.coordination.job_store import key
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.coordination.throughput import record_throughput, slowest_seconds_per_pass
from heatmill.jobs import records
from heatmill.jobs.status import load_job, summary
from heatmill.schemas import Row
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.schedule import plan
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.giving_back import WorkerEnds
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import MODEL, upload
from tests.workers.photos import noise, photo
from tests.workers.processed import control_of, planned_fresh, rows_of

# What the pixels of a heatmap depend on.
LIBRARIES = ("heatmill", "torch", "torchvision", "pillow", "numpy", "scikit-image")


def stored(worker: WorkerContext, job: JobId) -> dict[str, str]:
    """Every object of the job by its sha256, but for the commit records' seconds."""
    return {
        entry.key: hashlib.sha256(worker.storage.get(entry.key)).hexdigest()
        for entry in worker.storage.list(job.prefix)
        if "/results/" not in entry.key
    }


def test_a_shard_gives_a_heatmap_an_attribution_and_a_row_per_item_and_method(worker: WorkerContext) -> None:
    images = [{"id": name, "image": upload(worker.storage, photo(name))} for name in ("coffee.png", "chelsea.png")]
    job = planned_fresh(worker, items=images)

    process_shard(worker, job, 0)

    rows = rows_of(worker, job)
    assert [(row.item, row.method, row.status) for row in rows] == [
        (item, method, "succeeded") for item in ("coffee.png", "chelsea.png") for method in ("saliency", "grad_cam")
    ]
    labels = {row.item: row.target.label for row in rows if row.target}
    assert labels["coffee.png"] == "espresso"
    assert "cat" in labels["chelsea.png"]
    for row in rows:
        assert row.heatmap
        assert row.attribution
        assert worker.storage.get(row.heatmap.key).startswith(b"\x89PNG")
        assert worker.storage.exists(row.attribution.key)
        assert row.provenance["params"] == {}
        assert len(row.provenance["weights_sha256"]) == 64
        assert row.provenance["versions"] == {name: version(name) for name in LIBRARIES}


def test_running_a_shard_twice_changes_nothing(worker: WorkerContext) -> None:
    items = [{"image": upload(worker.storage, noise(seed))} for seed in range(3)]
    job = planned_fresh(worker, items=items)
    process_shard(worker, job, 0)
    before, record = stored(worker, job), worker.storage.get(keys.commit(job, 0, 0))
    counts = load_job(worker.storage, worker.state, job).counts

    process_shard(worker, job, 0)
    worker.state.client.flushall()
    process_shard(worker, job, 0)

    assert stored(worker, job) == before
    assert worker.storage.get(keys.commit(job, 0, 0)) == record
    assert load_job(worker.storage, worker.state, job).counts == counts


def test_a_second_worker_that_computes_the_same_shard_writes_the_same_bytes(worker: WorkerContext) -> None:
    items = [{"image": upload(worker.storage, noise(seed))} for seed in range(3)]
    job = planned_fresh(worker, items=items)
    process_shard(worker, job, 0)
    before = stored(worker, job)
    rows = rows_of(worker, job)
    worker.storage.delete([keys.commit(job, 0, 0)])
    worker.state.forget(job)
    plan(control_of(worker), job)

    process_shard(worker, job, 0)

    assert stored(worker, job) == before
    assert rows_of(worker, job) == rows


def test_a_commit_record_that_redis_never_heard_of_is_counted_and_not_made_again(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, noise(1))}])
    process_shard(worker, job, 0)
    record = worker.storage.get(keys.commit(job, 0, 0))
    worker.state.forget(job)
    worker.state.client.flushall()
    header = records.load_header(worker.storage, job, 0, 0)
    assert header
    accepted = records.load_request(worker.storage, job)
    worker.state.register(job, summary(accepted), records.load_plan(worker.storage, job), CommittedTotals())

    process_shard(worker, job, 0)

    assert worker.storage.get(keys.commit(job, 0, 0)) == record
    progress = worker.state.progress(job)
    assert progress
    assert progress.counts.succeeded == 2


def test_a_bad_item_is_an_error_row_and_the_others_succeed(worker: WorkerContext) -> None:
    good = upload(worker.storage, noise(1))
    coffee = photo("coffee.png")
    bad = {
        "empty": upload(worker.storage, b""),
        "text": upload(worker.storage, b"not an image"),
        "truncated": upload(worker.storage, coffee[: len(coffee) // 2]),
        "missing": f"upload://{'0' * 64}",
        "huge": upload(worker.storage, noise(2, (9000, 40))),
    }
    items = [{"id": "good", "image": good}, *({"id": name, "image": uri} for name, uri in bad.items())]
    small = replace(worker, settings=worker.settings.model_copy(update={"max_image_pixels": 300_000}))
    job = planned_fresh(worker, items=items, methods=[{"name": "grad_cam"}])

    process_shard(small, job, 0)

    errors = {row.item: row.error for row in rows_of(worker, job)}
    assert errors.pop("good") is None
    assert {name: error.type.rsplit("/", 1)[1] for name, error in errors.items() if error} == {
        "empty": "image_unreadable",
        "text": "image_unreadable",
        "truncated": "image_unreadable",
        "missing": "image_not_found",
        "huge": "image_too_large",
    }


def test_an_upload_whose_bytes_were_replaced_is_refused(worker: WorkerContext) -> None:
    uri = upload(worker.storage, noise(1))
    worker.storage.put(keys.blob("default", uri.removeprefix("upload://")), noise(2))
    job = planned_fresh(worker, items=[{"image": uri}], methods=[{"name": "grad_cam"}])

    process_shard(worker, job, 0)

    (row,) = rows_of(worker, job)
    assert row.error
    assert "sha256" in row.error.detail


def test_several_classes_of_one_image_come_in_the_order_of_their_probability(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=[{"image": upload(worker.storage, photo("coffee.png"))}], top_k=3)

    process_shard(worker, job, 0)

    rows = [row for row in rows_of(worker, job) if row.method == "grad_cam"]
    probabilities = [row.target.probability or 0 for row in rows if row.target]
    assert [row.rank for row in rows] == [0, 1, 2]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len({row.heatmap.key for row in rows if row.heatmap}) == 3


def test_an_item_s_own_target_is_explained_in_place_of_the_predicted_ones(worker: WorkerContext) -> None:
    items = [{"image": upload(worker.storage, photo("coffee.png")), "target": 283}]
    job = planned_fresh(worker, items=items, top_k=3, methods=[{"name": "grad_cam"}])

    process_shard(worker, job, 0)

    (row,) = rows_of(worker, job)
    assert row.target
    assert (row.target.index, row.rank) == (283, 0)


def test_weights_that_no_machine_has_fail_nothing_and_the_job_says_for_what_it_waits(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill_workers.shard.giving_back.LACK_PAUSE_SECONDS", 0.0)
    items = [{"image": upload(worker.storage, noise(1))}]
    job = planned_fresh(worker, model="resnet18", items=items, methods=[{"name": "saliency"}])

    endings = [process_shard(worker, job, 0) for _ in range(2 * worker.settings.max_attempts)]

    # A worker that is started again may find them; after that it goes on with other work.
    assert [type(ending) for ending in endings] == [WorkerEnds] + [type(None)] * (len(endings) - 1)
    assert not list(worker.storage.list(keys.commits(job)))
    worker.state.client.hset(key(job, "condition"), "since", "1")
    condition = read_condition(worker.state, job)
    assert condition is not None
    assert "torchvision's weights of resnet18" in condition.detail


def test_a_background_set_comes_from_the_job_or_from_the_models_configuration(
    worker: WorkerContext, sources: str, tmp_path: Path
) -> None:
    bucket = worker.storage.of_bucket(sources)
    bucket.put("sets/grey.png", photo("camera.png"))
    # The operator's own set may lie where tenants must not read.
    worker = replace(worker, settings=worker.settings.model_copy(update={"source_prefixes": ()}))
    operators = f"s3://{sources}/sets/grey.png"
    (tmp_path / "models.toml").write_text(
        f"[[models]]\nname='efficientnet_lite0'\nloader='bundled'\nbackground=['{operators}']"
    )
    worker = replace(worker, catalogue=load_catalogue(tmp_path / "models.toml"))
    coffee, set_of_one = upload(worker.storage, photo("coffee.png")), upload(worker.storage, photo("camera.png"))

    def explained(uri: str) -> list[Row]:
        methods = [{"name": "saliency"}, {"name": "deep_shap", "params": {"background": [uri]}}]
        job = planned_fresh(worker, items=[{"image": coffee}], methods=methods)
        process_shard(worker, job, 0)
        return rows_of(worker, job)

    (_, by_job), (_, by_model), (other, missing) = (
        explained(set_of_one),
        explained(operators),
        explained("s3://nowhere/1.png"),
    )

    assert by_job.checks == by_model.checks
    assert by_job.checks["background"] == 1
    assert by_model.verdict == "ok"
    assert by_model.provenance["params"] == {"background": [operators]}
    assert other.status == "succeeded"
    assert missing.error
    assert "background image: 's3://nowhere/1.png' is not an allowed source" in missing.error.detail


def test_a_short_shard_mends_a_pace_that_was_too_slow_but_makes_none_slower(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill_workers.shard.run.PACE_SECONDS", 1000.0)
    for known, mended in ((100.0, True), (1e-9, False)):
        record_throughput(worker.state, MODEL, "cpu", known)
        process_shard(worker, planned_fresh(worker, items=[{"image": upload(worker.storage, noise(0))}]), 0)
        pace = slowest_seconds_per_pass(worker.state, MODEL)
        assert pace is not None
        assert (pace < known) is mended
