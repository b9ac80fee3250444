"""Cancelling, retrying and deleting jobs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import SWEEP
from heatmill.errors import ImageNotFound, JobDeleted
from heatmill.jobs import records
from heatmill.jobs.planner import as_problem
from heatmill.schemas import Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from tests.api.requests import answered, body, commit, finish, row, submit
from tests.workers.jobs import rung

KEY = {"Idempotency-Key": "order-66"}


def failed(index: int) -> Row:
    return row(index, status="failed", target=None, error=as_problem(ImageNotFound("nothing is stored there")))


def ended(client: FlaskClient, storage: S3Storage, state: RedisJobStore, *rows: Row, **more: Any) -> JobId:
    """A job that is done, with these rows."""
    job = submit(client, items=len(rows), **more)
    header = commit(storage, job, 0, *rows)
    state.commit(job, header)
    finish(storage, state, job, "partly_failed" if header.failed else "succeeded")
    return job


def listed(client: FlaskClient) -> set[str]:
    """The newest jobs."""
    return {entry["id"] for entry in answered(client.get("/v1/jobs"))["jobs"]}


def test_cancelling_leaves_a_marker_and_stops_the_sending(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job = submit(client)
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{job.job}:cancel")
        assert answer.status_code == 202
    assert answer.json is not None
    assert answer.json["id"] == job.job
    assert storage.exists(keys.cancelled(job))
    assert state.is_cancelled(job)
    assert state.client.llen("control") == 1, "one ring to feed at a time"


def test_cancelling_a_cancelled_job_again_gives_the_job(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job = submit(client)
    client.post(f"/v1/jobs/{job.job}:cancel")
    finish(storage, state, job, "cancelled")
    answer = client.post(f"/v1/jobs/{job.job}:cancel")
    assert answer.status_code == 202
    assert answer.json is not None
    assert (answer.json["id"], answer.json["state"], answer.json["done"]) == (job.job, "cancelled", True)


def test_a_finished_job_cannot_be_cancelled(client: FlaskClient, storage: S3Storage, state: RedisJobStore) -> None:
    job = submit(client)
    finish(storage, state, job)
    answer = client.post(f"/v1/jobs/{job.job}:cancel")
    assert answer.status_code == 409
    assert not storage.exists(keys.cancelled(job))


def test_what_failed_is_run_again_as_a_new_job(client: FlaskClient, storage: S3Storage, state: RedisJobStore) -> None:
    metadata = {"order": "7"}
    job = ended(client, storage, state, row(0), failed(1), metadata=metadata, priority="bulk", top_k=1)
    link = answered(client.get(f"/v1/jobs/{job.job}"))["links"]["retry"]

    first = client.post(link, headers=KEY)
    again = answered(first, 202)

    assert first.headers["Location"] == f"/v1/jobs/{again['id']}"
    assert again["id"] != job.job
    assert (again["metadata"], again["priority"], again["done"]) == (metadata, "bulk", False)
    stored = records.load_request(storage, JobId("default", again["id"])).request
    assert stored.source is not None
    assert stored.source.uri == f"job://{job.job}/failed"
    assert answered(client.post(link, headers=KEY), 202)["id"] == again["id"]


def test_a_retry_that_is_sent_again_finds_its_job_after_the_first_one_was_deleted(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job, other = (ended(client, storage, state, failed(0)) for _ in range(2))
    ours, theirs = {"Idempotency-Key": "before-the-deletion"}, {"Idempotency-Key": "of-another-retry"}
    link = f"/v1/jobs/{job.job}:retry"
    again = answered(client.post(link, headers=ours), 202)
    answered(client.post(f"/v1/jobs/{other.job}:retry", headers=theirs), 202)
    assert client.delete(f"/v1/jobs/{job.job}").status_code == 204

    answer = client.post(link, headers=ours)

    assert answered(answer, 202)["id"] == again["id"]
    assert answer.headers["Idempotency-Replayed"] == "true"
    for key in ({}, theirs, {"Idempotency-Key": "unused"}):
        assert answered(client.post(link, headers=key), 404)["type"].endswith("/job_deleted")


@pytest.mark.parametrize("priority", [None, "interactive"])
def test_a_small_job_is_retried_too(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore, priority: str | None
) -> None:
    job = ended(client, storage, state, failed(0), priority=priority)
    assert answered(client.post(f"/v1/jobs/{job.job}:retry"), 202)["priority"] == "normal"


def test_a_retry_keeps_the_background_that_the_operator_has_named(
    services: ApiContext, storage: S3Storage, state: RedisJobStore, tmp_path: Path
) -> None:
    entry = "[[models]]\nname='own'\nloader='torchvision'\narchitecture='resnet18'\nbackground=['s3://sets/1.png']"
    (tmp_path / "models.toml").write_text(entry)
    client = create_app(replace(services, catalogue=load_catalogue(tmp_path / "models.toml"))).test_client()
    job = ended(client, storage, state, failed(0), model="own", methods=[{"name": "deep_shap"}])

    again = answered(client.post(f"/v1/jobs/{job.job}:retry"), 202)

    assert again["methods"] == [{"name": "deep_shap", "params": {"background": ["s3://sets/1.png"]}}]


def test_a_retry_keeps_the_layout(client: FlaskClient, storage: S3Storage, state: RedisJobStore) -> None:
    job = ended(client, storage, state, failed(0), layout="webdataset")

    again = answered(client.post(f"/v1/jobs/{job.job}:retry"), 202)

    assert records.load_request(storage, JobId("default", again["id"])).request.layout == "webdataset"


def test_there_must_be_something_to_retry(client: FlaskClient, storage: S3Storage, state: RedisJobStore) -> None:
    good, running = ended(client, storage, state, row(0)), submit(client)
    only_map = {"methods": [], "map": {"method": "tsne"}}
    mapped = ended(client, storage, state, failed(0), failed(1), failed(2), **only_map)

    assert "has no failed items" in answered(client.post(f"/v1/jobs/{good.job}:retry"), 422)["detail"]
    assert "map only" in answered(client.post(f"/v1/jobs/{mapped.job}:retry"), 422)["detail"]
    assert answered(client.post(f"/v1/jobs/{running.job}:retry"), 409)["type"].endswith("/job_unfinished")


@pytest.mark.parametrize(
    ("uri", "status"), [(f"job://{'f' * 32}/failed", 422), ("job://../failed", 422), (f"job://{'f' * 32}", 422)]
)
def test_a_source_that_is_no_job_is_pointed_at(client: FlaskClient, uri: str, status: int) -> None:
    problem = answered(client.post("/v1/jobs", json=body(source={"uri": uri}) | {"items": None}), status)
    assert problem["errors"][0]["pointer"] == "/source/uri"


def test_a_deleted_job_is_gone_at_once(client: FlaskClient, storage: S3Storage, state: RedisJobStore) -> None:
    job, other = ended(client, storage, state, row(0)), ended(client, storage, state, row(0))
    state.client.delete("control")

    answer = client.delete(f"/v1/jobs/{job.job}")

    assert (answer.status_code, answer.data) == (204, b"")
    for path in ("", "/results", "/map", "/results/photo-0/saliency/heatmap.png"):
        assert client.get(f"/v1/jobs/{job.job}{path}").status_code == 404, path
    for path in (":cancel", ":retry"):
        assert client.post(f"/v1/jobs/{job.job}{path}").status_code == 404, path
    assert answered(client.delete(f"/v1/jobs/{job.job}"), 404)["type"].endswith("/job_deleted")
    assert listed(client) & {job.job, other.job} == {other.job}
    assert rung(state, SWEEP) == {job}


def test_a_job_that_runs_is_not_deleted(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client)
    problem = answered(client.delete(f"/v1/jobs/{job.job}"), 409)
    assert problem["detail"] == f"job {job.job} is queued; cancel it first"
    assert storage.exists(keys.request(job))


def test_the_key_of_a_deleted_job_is_not_used_again(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    key = {"Idempotency-Key": "used-once"}
    job = JobId("default", answered(client.post("/v1/jobs", json=body(), headers=key), 202)["id"])
    finish(storage, state, job)
    client.delete(f"/v1/jobs/{job.job}")

    problem = answered(client.post("/v1/jobs", json=body(), headers=key), 422)

    assert problem["type"].endswith("/idempotency_key_reused")
    assert "was deleted" in problem["detail"]
    with pytest.raises(JobDeleted):
        records.load_request(storage, job)


def test_a_deleted_job_is_not_listed_after_redis_was_wiped(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job, other = ended(client, storage, state, row(0)), ended(client, storage, state, row(0))
    client.delete(f"/v1/jobs/{job.job}")
    state.client.flushall()

    assert listed(client) & {job.job, other.job} == {other.job}
