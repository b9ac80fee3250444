"""Whether the API and what it stands on answer."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.task_queue import Dispatcher, celery_app
from heatmill.local.ports import LOOPBACK
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage, open_storage
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_api.views import health
from tests.api.requests import body
from tests.faults import s3_proxy
from tests.faults.s3_proxy import Forward, Request, S3Proxy


def test_a_living_process_says_so(client: FlaskClient) -> None:
    assert client.get("/livez").json == {"status": "ok"}


def test_a_ready_api_names_what_it_stands_on(client: FlaskClient, storage: S3Storage) -> None:
    del storage.__dict__["has_conditional_writes"]
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {
        "ready": True,
        "redis": {"status": "ok", "message": ""},
        "storage": {"status": "ok", "message": "", "conditional_writes": True},
    }


def test_a_store_without_conditional_writes_is_said_to_have_none(services: ApiContext, client: FlaskClient) -> None:
    services.storage.__dict__["has_conditional_writes"] = False
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json is not None
    assert not answer.json["storage"]["conditional_writes"]
    assert "claims" in answer.json["storage"]["message"]


def test_a_store_that_is_down_is_told_and_takes_the_api_out(services: ApiContext, settings: Settings) -> None:
    nowhere = open_storage(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    bucketless = open_storage(settings.model_copy(update={"bucket": "not-made-yet"}))
    for store in (nowhere, bucketless):
        answer = readiness(replace(services, storage=store))
        assert answer.status_code == 503
        assert answer.json is not None
        assert answer.json["storage"]["status"] == "down"
        assert_says_little(answer.json["storage"]["message"])
        assert answer.json["redis"]["status"] == "ok"


def test_redis_that_is_down_is_told_and_leaves_the_api_in(services: ApiContext) -> None:
    lost = "redis://127.0.0.1:9/0"
    with celery_app(Settings(redis_url=lost), "test") as app:
        answer = readiness(replace(services, state=open_state(lost), dispatcher=Dispatcher(app)))
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["ready"]
    assert answer.json["redis"]["status"] == "down"
    assert_says_little(answer.json["redis"]["message"])
    assert answer.json["storage"]["status"] == "ok"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_redis_that_hangs_is_told_soon_and_jobs_are_accepted(services: ApiContext, silent: int) -> None:
    lost = f"redis://{LOOPBACK}:{silent}/0"
    with celery_app(Settings(redis_url=lost), "test", 0.3) as app:
        hung = replace(services, state=open_state(lost, 0.3), dispatcher=Dispatcher(app))
        begun = time.monotonic()
        answer = readiness(hung)
        accepted = create_app(hung).test_client().post("/v1/jobs", json=body())
    services.storage.delete([entry.key for entry in services.storage.list("open/")])
    assert answer.json is not None
    assert (answer.status_code, answer.json["redis"]["status"]) == (200, "down")
    assert accepted.status_code == 202
    assert time.monotonic() - begun < 5


def test_a_store_that_hangs_is_told_soon(
    services: ApiContext, settings: Settings, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.5)
    hung = open_storage(settings.model_copy(update={"s3_endpoint": f"http://{LOOPBACK}:{silent}"}))
    answer = readiness(replace(services, storage=hung))
    assert answer.json is not None
    assert (answer.status_code, answer.json["storage"]["status"]) == (503, "down")


def test_redis_that_answers_and_takes_no_messages_is_down(services: ApiContext, state: RedisJobStore) -> None:
    state.client.config_set("maxmemory", 1)
    state.client.config_set("maxmemory-policy", "noeviction")
    try:
        state.ping()
        answer = readiness(services)
    finally:
        state.client.config_set("maxmemory", 0)
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["redis"]["status"] == "down"


def test_the_proof_that_a_message_can_be_sent_leaves_nothing_behind(client: FlaskClient, state: RedisJobStore) -> None:
    assert client.get("/readyz").status_code == 200
    assert list(state.client.scan_iter()) == []


def test_a_store_that_takes_nothing_is_told_and_tried_once_in_a_while(
    services: ApiContext, proxied: S3Storage, store_proxy: S3Proxy
) -> None:
    writes: list[str] = []

    async def counting(request: Request, forward: Forward) -> bytes:
        if request.method == "PUT":
            writes.append(request.path)
        return await s3_proxy.full()(request, forward)

    store_proxy.behaviour = counting
    app = create_app(replace(services, storage=proxied))

    answers = [app.test_client().get("/readyz") for _ in range(5)]

    assert {answer.status_code for answer in answers} == {200}
    assert [(answer.get_json()["storage"]["status"]) for answer in answers] == ["read_only"] * 5
    assert "no room" in answers[0].get_json()["storage"]["message"]
    assert len(set(writes)) == 1


def readiness(services: ApiContext) -> TestResponse:
    """What an API with these collaborators answers; it lives in any case."""
    client = create_app(services).test_client()
    assert client.get("/livez").status_code == 200
    return client.get("/readyz")


def assert_says_little(message: str) -> None:
    """Something for a stranger, and no name from inside."""
    assert message
    assert not any(inside in message for inside in ("127.0.0.1", "http:", "not-made-yet", "Errno"))


def test_a_full_redis_is_told_in_words_and_refuses_jobs_until_it_has_room(
    client: FlaskClient, services: ApiContext, state: RedisJobStore
) -> None:
    state.client.config_set("maxmemory", "1")
    try:
        answer = client.get("/readyz").get_json()
        refused = client.post("/v1/jobs", json=body(1))
    finally:
        state.client.config_set("maxmemory", "0")
    assert answer["redis"]["status"] == "down"
    assert "Redis is full" in answer["redis"]["message"]
    assert refused.status_code == 503
    assert refused.get_json()["type"].endswith("queue_full")
    assert "Redis is full" in refused.get_json()["detail"]
    assert list(services.storage.list("open/")) == [], "nothing is accepted"
    assert client.post("/v1/jobs", json=body(1)).status_code == 202
