"""Who may ask, and what each may see."""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from heatmill.storage import keys
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_api.http import auth as tenants
from heatmill_api.http.auth import read_keys
from tests.api.requests import body


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def guarded(services: ApiContext, tmp_path: Path) -> FlaskClient:
    """The API for two tenants, whose keys are their names in capitals."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(name.upper().encode()).hexdigest(): name for name in ("ann", "bob")}))
    settings = services.settings.model_copy(update={"api_keys_file": path})
    return create_app(replace(services, settings=settings)).test_client()


@pytest.mark.parametrize(
    "headers", [{}, bearer("CARL"), bearer(""), {"Authorization": "Basic QU5OOg=="}, {"X-API-Key": "ann"}]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/methods", "/v1/jobs/1/results/a/b/heatmap.png"])
def test_without_a_known_key_nothing_is_told(guarded: FlaskClient, path: str, headers: dict[str, str]) -> None:
    answer = guarded.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json is not None
    assert answer.json["type"].endswith("/unauthorized")


@pytest.mark.parametrize("headers", [bearer("ANN"), {"Authorization": "bearer ANN"}, {"X-API-Key": "ANN"}])
def test_a_known_key_opens_the_door(guarded: FlaskClient, headers: dict[str, str]) -> None:
    assert guarded.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/docs", "/docs/swagger"])
def test_what_holds_no_secrets_needs_no_key(guarded: FlaskClient, path: str) -> None:
    assert guarded.get(path).status_code < 400


def test_another_tenants_job_is_not_found(guarded: FlaskClient) -> None:
    job = guarded.post("/v1/jobs", json=body(), headers=bearer("ANN")).json
    assert job is not None
    path = job["links"]["self"]
    assert guarded.get(path, headers=bearer("ANN")).status_code == 200
    for method, place in (("GET", path), ("GET", f"{path}/results"), ("POST", f"{path}:cancel")):
        assert guarded.open(place, method=method, headers=bearer("BOB")).status_code == 404
    listed = guarded.get("/v1/jobs", headers=bearer("BOB")).json
    assert listed is not None
    assert job["id"] not in str(listed)


def test_one_key_for_two_tenants_gives_two_jobs(guarded: FlaskClient) -> None:
    key = {"Idempotency-Key": "mine"}
    ids = {
        job["id"]
        for name in ("ANN", "BOB")
        if (job := guarded.post("/v1/jobs", json=body(), headers=bearer(name) | key).json)
    }
    assert len(ids) == 2


@pytest.mark.parametrize("prefix", [value for name, value in vars(keys).items() if name.endswith("_PREFIX")])
def test_a_tenant_is_not_called_as_a_prefix_of_heatmills_own_objects(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"a" * 64: prefix.rstrip("/")}))
    with pytest.raises(ValueError, match="reserved"):
        read_keys(path)
    path.write_text(json.dumps({"a" * 64: f"{prefix.rstrip('/')}-2"}))
    assert read_keys(path).tenants


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]x",
        "[]",
        f'{{"{"a" * 64}": "ann", "{"a" * 64}": "bob"}}',
        '["ab"]',
        "5",
        '{"secret": "ann"}',
        json.dumps({"a" * 64: "Ann"}),
        json.dumps({"a" * 64: "a/b"}),
        json.dumps({"a" * 64: ""}),
        json.dumps({"a" * 64: 5}),
    ],
)
def test_a_wrong_file_of_keys_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"keys\.json"):
        read_keys(path)


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants, "LOOK_SECONDS", 0.0)


def write_keys(path: Path, **known: str) -> None:
    """Replace the file, as an editor or Kubernetes does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({hashlib.sha256(key.encode()).hexdigest(): tenant for key, tenant in known.items()}))
    fresh.replace(path)


@pytest.mark.usefixtures("looks_at_once")
def test_a_key_that_is_added_works_and_one_that_is_taken_away_does_not(guarded: FlaskClient, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.json", BOB="bob", CARL="carl")

    status = {name: guarded.get("/v1/jobs", headers=bearer(name)).status_code for name in ("ANN", "BOB", "CARL")}

    assert status == {"ANN": 401, "BOB": 200, "CARL": 200}


@pytest.mark.usefixtures("looks_at_once")
def test_a_file_that_is_wrong_or_away_changes_nothing_and_is_told_once(guarded: FlaskClient, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for spoil in (lambda: path.write_text("{"), path.unlink):
        spoil()
        with capture_logs() as lines:
            answers = {guarded.get("/v1/jobs", headers=bearer("ANN")).status_code for _ in range(3)}
        assert answers == {200}
        assert [line["log_level"] for line in lines if "API keys" in line["event"]] == ["error"]
    write_keys(path, BOB="bob")
    assert guarded.get("/v1/jobs", headers=bearer("ANN")).status_code == 401


def test_a_revoked_key_stops_within_seconds(guarded: FlaskClient, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.json", BOB="bob")
    time.sleep(tenants.LOOK_SECONDS)

    assert guarded.get("/v1/jobs", headers=bearer("ANN")).status_code == 401
