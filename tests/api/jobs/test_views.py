"""Submitting and reading jobs."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask.testing import FlaskClient

from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.schedule import Window
from heatmill.coordination.task_queue import Dispatcher, celery_app
from heatmill.coordination.throughput import record_throughput
from heatmill.errors import QueueUnavailable
from heatmill.jobs import records
from heatmill.schemas import JobRequest
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage, open_storage
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_api.jobs.accept import accept, fingerprint, job_for
from tests.api.requests import MODEL, body, finish, submit
from tests.shared.known_jobs import outstanding

NOBODY = "redis://127.0.0.1:9/0"
KEY = {"Idempotency-Key": "order-66"}


def queued(state: RedisJobStore) -> int:
    return sum(int(state.client.llen(name)) for name in ("explain", "explain:3", "explain:6", "control"))


def test_a_submitted_job_is_answered_with_its_place_and_its_links(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", json=body())
    assert answer.status_code == 202, answer.text
    job = answer.json
    assert job is not None
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert job == client.get(answer.headers["Location"]).json
    assert (job["state"], job["done"], job["counts"]["total"]) == ("queued", False, 1)


def test_params_get_their_defaults_and_labels_become_indices(client: FlaskClient, storage: S3Storage) -> None:
    request = body() | {"methods": [{"name": "integrated_gradients", "params": {"steps": 7}}]}
    request["items"] = [{"image": f"upload://{'b' * 64}", "target": "espresso"}]
    answer = client.post("/v1/jobs", json=request)
    assert answer.json is not None
    stored = records.load_request(storage, JobId("default", answer.json["id"]))
    assert set(stored.request.methods[0].params) > {"steps"}
    assert stored.request.items is not None
    assert stored.request.items[0].target == 967
    assert storage.exists(keys.open_marker(JobId("default", stored.id)))


def test_a_job_that_fits_one_shard_is_planned_and_sent_at_once(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job = submit(client, items=3)
    plan = records.load_plan(storage, job)
    assert plan is not None
    assert (plan.shards, plan.items, plan.results) == (1, 3, 3)
    assert state.client.llen("explain") == 1
    assert outstanding(state, job) == 1


def test_small_jobs_fill_the_window_and_then_take_their_turns(
    client: FlaskClient, services: ApiContext, state: RedisJobStore
) -> None:
    window = services.settings.window_shards
    jobs = [submit(client) for _ in range(window + 3)]

    assert state.waiting(["explain"]) == window
    assert state.waiting(["control"]) == 1, "one message is enough for whoever waits"
    assert [outstanding(state, job) for job in jobs] == [1] * window + [0] * 3
    submit(client, priority="bulk")
    assert state.waiting(["explain:6"]) == 1, "another priority has a window of its own"


def test_a_small_job_does_not_jump_ahead_of_jobs_that_wait_for_their_turns(
    client: FlaskClient, services: ApiContext, state: RedisJobStore
) -> None:
    """Else a tenant's POSTs would take each place that comes free before the next feed can give it to another."""
    for _ in range(services.settings.window_shards):
        submit(client)
    waits = submit(client)
    fill(state, services.settings)
    state.client.delete("explain")

    assert outstanding(state, submit(client)) == 0
    assert (state.waiting(["explain"]), state.waiting(["control"])) == (0, 1)
    assert outstanding(state, submit(client, priority="bulk")) == 1

    state.client.delete("heatmill:fed")
    assert outstanding(state, submit(client)) == 1, "where nobody feeds, it would wait in vain"
    assert outstanding(state, waits) == 0


def fill(state: RedisJobStore, settings: Settings) -> None:
    """What a feed does, without the sending."""
    state.schedule.fill(Window(settings.window_shards, ["explain"]), 60, 16, 16)


def test_a_larger_job_is_left_to_the_control_worker(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    record_throughput(state, MODEL, "cpu", 5.0)
    job = submit(client, items=3)
    assert records.load_request(storage, job).shard_items == 1
    assert records.load_plan(storage, job) is None
    assert state.client.llen("explain") == 0
    assert state.client.llen("control") == 1


@pytest.mark.parametrize(("items", "priority"), [(16, "interactive"), (17, "normal")])
def test_a_small_job_is_interactive_by_itself(client: FlaskClient, items: int, priority: str) -> None:
    answer = client.post("/v1/jobs", json=body(items))
    assert answer.json is not None
    assert answer.json["priority"] == priority


def test_a_request_that_is_only_validated_stores_nothing(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    before = list(storage.list(""))
    answer = client.post("/v1/jobs", json=body(validate_only=True), headers=KEY)
    assert answer.status_code == 200
    assert answer.json == {"valid": True, "model": MODEL, "methods": [{"name": "saliency", "params": {}}], "map": None}
    assert list(storage.list("")) == before
    assert queued(state) == 0


def test_the_same_key_and_body_give_the_same_job(client: FlaskClient, state: RedisJobStore) -> None:
    first = client.post("/v1/jobs", json=body(), headers=KEY)
    waiting = queued(state)
    again = client.post("/v1/jobs", json=body(), headers=KEY)
    assert again.status_code == 202
    assert again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert queued(state) == waiting


def test_the_same_key_with_another_body_is_refused(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "other-body"}
    client.post("/v1/jobs", json=body(), headers=headers)
    answer = client.post("/v1/jobs", json=body(2), headers=headers)
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["type"].endswith("/idempotency_key_reused")


def test_a_replay_of_a_finished_job_opens_and_sends_nothing(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    headers = {"Idempotency-Key": "finished"}
    answer = client.post("/v1/jobs", json=body(), headers=headers)
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    finish(storage, state, job)
    waiting = queued(state)
    again = client.post("/v1/jobs", json=body(), headers=headers)
    assert again.json is not None
    assert (again.json["id"], again.json["state"]) == (job.job, "succeeded")
    assert not storage.exists(keys.open_marker(job))
    assert queued(state) == waiting


def test_racing_requests_with_one_key_give_one_job_that_is_sent_once(client: FlaskClient, state: RedisJobStore) -> None:
    headers = {"Idempotency-Key": "race"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda _: client.application.test_client().post("/v1/jobs", json=body(), headers=headers), range(6)
            )
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers if answer.json}) == 1
    assert state.client.llen("explain") == 1


def test_a_request_that_loses_to_a_finished_job_takes_its_marker_back(
    client: FlaskClient, services: ApiContext, storage: S3Storage
) -> None:
    job = job_for("default", "lost")
    answer = client.post("/v1/jobs", json=body(), headers={"Idempotency-Key": "lost"})
    assert answer.json is not None
    assert answer.json["id"] == job.job
    finish(storage, services.state, job)
    request = records.load_request(storage, job).request
    acceptance = accept(services, job, request, records.load_request(storage, job).fingerprint)
    assert acceptance.replayed
    assert not storage.exists(keys.open_marker(job))


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "schlüssel"])
def test_a_key_that_is_not_visible_ascii_is_refused(client: FlaskClient, key: str) -> None:
    answer = client.post("/v1/jobs", json=body(), headers={"Idempotency-Key": key})
    assert answer.status_code == 422


def test_a_job_is_accepted_while_redis_is_down(services: ApiContext, storage: S3Storage) -> None:
    lost = Settings(redis_url=NOBODY)
    away = replace(services, state=open_state(NOBODY), dispatcher=Dispatcher(celery_app(lost, "api")))
    began = time.monotonic()
    client = create_app(away).test_client()
    job = submit(client, items=2)
    assert time.monotonic() - began < 5
    assert storage.exists(keys.open_marker(job))
    assert records.load_plan(storage, job) is not None
    shown = client.get(f"/v1/jobs/{job.job}").json
    assert shown is not None
    assert (shown["state"], shown["counts"]["total"]) == ("queued", 2)
    assert client.get("/v1/jobs").status_code == 200
    assert client.post(f"/v1/jobs/{job.job}:cancel").status_code == 503


def test_a_dispatcher_without_redis_says_so_soon(settings: Settings) -> None:
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        Dispatcher(celery_app(Settings(redis_url=NOBODY), "api")).feed()
    assert time.monotonic() - began < 5


def test_nothing_is_accepted_while_the_store_is_down(services: ApiContext, settings: Settings) -> None:
    nowhere = settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    client = create_app(replace(services, storage=open_storage(nowhere))).test_client()
    answer = client.post("/v1/jobs", json=body())
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert answer.content_type == "application/problem+json"
    assert answer.json is not None
    assert answer.json["detail"] == "the object store does not answer as it should; try again"


def test_waiting_ends_when_the_job_does(client: FlaskClient, storage: S3Storage, state: RedisJobStore) -> None:
    job = submit(client)
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        waiting = pool.submit(client.application.test_client().get, f"/v1/jobs/{job.job}?wait=20")
        time.sleep(0.3)
        finish(storage, state, job)
        answer = waiting.result().json
    assert answer is not None
    assert answer["done"]
    assert time.monotonic() - began < 5


def test_waiting_ends_when_its_time_does(client: FlaskClient) -> None:
    job = submit(client)
    began = time.monotonic()
    assert client.get(f"/v1/jobs/{job.job}?wait=0.3").status_code == 200
    assert 0.3 <= time.monotonic() - began < 2


def test_nobody_waits_where_too_many_wait_already(client: FlaskClient, services: ApiContext) -> None:
    job = submit(client)
    while services.waiters.acquire(blocking=False):
        pass
    began = time.monotonic()
    assert client.get(f"/v1/jobs/{job.job}?wait=20").status_code == 200
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("wait", ["-1", "31", "nan", "soon"])
def test_a_wait_that_is_none_is_refused(client: FlaskClient, wait: str) -> None:
    answer = client.get(f"/v1/jobs/{submit(client).job}?wait={wait}")
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["errors"][0]["parameter"] == "wait"


@pytest.mark.parametrize("job", ["f" * 32, "F" * 32, "1", "..%2f..", "%00"])
@pytest.mark.parametrize("path", ["", "/results", ":cancel", ":retry"])
def test_a_job_that_nobody_submitted_is_not_found(client: FlaskClient, job: str, path: str) -> None:
    method = "POST" if path.startswith(":") else "GET"
    assert client.open(f"/v1/jobs/{job}{path}", method=method).status_code == 404


def test_a_fingerprint_says_what_was_asked_not_how_it_was_spelled() -> None:
    spelled = json.dumps(body(2) | {"top_k": 1}, sort_keys=True)
    assert fingerprint(JobRequest.model_validate(body(2))) == fingerprint(JobRequest.model_validate_json(spelled))
