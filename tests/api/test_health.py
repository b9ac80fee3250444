"""Whether the API and what it stands on answer."""

from dataclasses import replace

from flask.testing import FlaskClient

from heatmill.settings import Settings
from heatmill.state import open_state
from heatmill.storage import S3Storage, open_storage
from heatmill_api.app import create_app
from heatmill_api.services import Services


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


def test_a_store_without_conditional_writes_is_said_to_have_none(services: Services, client: FlaskClient) -> None:
    services.storage.__dict__["has_conditional_writes"] = False
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json is not None
    assert not answer.json["storage"]["conditional_writes"]
    assert "claims" in answer.json["storage"]["message"]


def test_what_is_down_is_told_apart(services: Services, settings: Settings) -> None:
    nobody = open_state("redis://127.0.0.1:9/0")
    nowhere = open_storage(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    bucketless = open_storage(settings.model_copy(update={"bucket": "not-made-yet"}))
    for broken, down in (
        (replace(services, state=nobody), "redis"),
        (replace(services, storage=nowhere), "storage"),
        (replace(services, storage=bucketless), "storage"),
    ):
        answer = create_app(broken).test_client().get("/readyz")
        assert answer.status_code == 503
        assert answer.json is not None
        found = {name: answer.json[name]["status"] for name in ("redis", "storage")}
        assert found == {"redis": "ok", "storage": "ok"} | {down: "down"}
        assert answer.json[down]["message"]
        assert not any(inside in answer.text for inside in ("127.0.0.1", "http:", "not-made-yet", "Errno"))
        assert create_app(broken).test_client().get("/livez").status_code == 200
