"""Each request has an id and a line in the log."""

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from heatmill.jobs import records
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_api.http.access_log import HEADER
from tests.api.http.test_auth import bearer, guarded
from tests.api.requests import answered, body

__all__ = ["guarded"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_log": True})


def logged(client: FlaskClient, method: str, path: str, **more: Any) -> list[dict[str, Any]]:
    """What is logged of a request."""
    with capture_logs() as lines:
        client.open(path, method=method, **more)
    return [dict(line) for line in lines if line["event"] == "request"]


def test_a_line_tells_who_asked_for_what_and_what_came_of_it(guarded: FlaskClient) -> None:
    headers = bearer("ANN") | {HEADER: "from-the-proxy"}

    (line,) = logged(guarded, "POST", "/v1/jobs", json=body(), headers=headers)

    assert line.pop("milliseconds") > 0
    assert len(line.pop("job")) == 32
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "from-the-proxy",
        "tenant": "ann",
        "method": "POST",
        "path": "/v1/jobs",
        "status": 202,
    }


@pytest.mark.parametrize(
    ("path", "status", "job"),
    [
        ("/v1/jobs?page_token=secret", 401, None),
        ("/v1/jobs/" + "a" * 32 + "?wait=1", 401, "a" * 32),
        ("/secre", 404, None),
    ],
)
def test_a_refusal_has_a_line_without_what_was_sent_to_open_the_door(
    guarded: FlaskClient, path: str, status: int, job: str | None
) -> None:
    (line,) = logged(guarded, "GET", path, headers=bearer("secret"))

    assert (line["tenant"], line["status"], line["job"]) == (None, status, job)
    assert "secret" not in str(line)


def test_the_log_can_be_switched_off(services: ApiContext) -> None:
    quiet = replace(services, settings=services.settings.model_copy(update={"access_log": False}))

    assert logged(create_app(quiet).test_client(), "GET", "/livez") == []


@pytest.mark.parametrize("sent", ["from-the-proxy", "4bf92f3577b34da6a3ce929d0e0e4736", "a" * 100])
def test_a_callers_id_is_that_of_the_answer_and_of_the_job(client: FlaskClient, storage: S3Storage, sent: str) -> None:
    answer = client.post("/v1/jobs", json=body(), headers={HEADER: sent})

    job = answered(answer, 202)
    assert answer.headers[HEADER] == job["request_id"] == sent
    assert records.load_request(storage, JobId("default", job["id"])).request_id == sent
    assert answered(client.get(f"/v1/jobs/{job['id']}"))["request_id"] == sent


@pytest.mark.parametrize("sent", [None, "", "a" * 101, "two words", "{}", "ü"])
def test_without_a_good_one_each_request_gets_its_own(client: FlaskClient, sent: str | None) -> None:
    headers = {} if sent is None else {HEADER: sent}

    given = [client.get("/livez", headers=headers).headers[HEADER] for _ in range(2)]

    assert all(len(name) == 32 for name in given)
    assert len(set(given)) == 2
