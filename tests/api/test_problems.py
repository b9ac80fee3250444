"""Every error is a problem."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from heatmill import errors
from heatmill_api.problems import STATUS
from tests.api.requests import answered, body


def check(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The problem in an answer."""
    problem = answered(answer, status)
    assert answer.content_type == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"https://heatmill.dev/problems/{code}"
    assert problem["title"]
    return problem


def test_every_request_error_has_a_status() -> None:
    assert set(errors.RequestError.__subclasses__()) <= set(STATUS)


def test_an_unknown_path_is_not_found(client: FlaskClient) -> None:
    check(client.get("/v2/jobs"), 404, "not_found")
    check(client.get("/v1/jobs/"), 404, "not_found")


def test_a_wrong_method_is_told_the_right_ones(client: FlaskClient) -> None:
    answer = client.delete("/v1/jobs")
    check(answer, 405, "method_not_allowed")
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/uploads"])
def test_another_content_type_is_refused(client: FlaskClient, path: str, content_type: str) -> None:
    problem = check(client.post(path, data="{}", content_type=content_type), 415, "unsupported_media_type")
    assert "application/json" in problem["detail"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/uploads"])
def test_malformed_json_is_a_bad_request(client: FlaskClient, path: str) -> None:
    check(client.post(path, data="{", content_type="application/json"), 400, "malformed_request")
    check(client.post(path, data="[]", content_type="application/json; charset=utf-8"), 422, "invalid_request")


def test_a_body_over_the_limit_is_refused_with_the_limit(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", data=b" " * 200_001, content_type="application/json")
    assert "200,000 bytes" in check(answer, 413, "too_large")["detail"]


def test_an_unexpected_failure_tells_nothing_of_the_inside(app: Flask) -> None:
    def fail() -> str:
        raise RuntimeError("password=hunter2")

    app.add_url_rule("/fail", view_func=fail)
    problem = check(app.test_client().get("/fail"), 500, "internal_error")
    assert "hunter2" not in str(problem)


def test_types_are_never_guessed(client: FlaskClient) -> None:
    for answer in (client.get("/livez"), client.get("/nowhere"), client.post("/v1/jobs", json=body())):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_unknown_parameter_is_refused(client: FlaskClient) -> None:
    for path in ("/v1/jobs?sate=queued", f"/v1/jobs/{'0' * 32}?weit=1", f"/v1/jobs/{'0' * 32}/results?methods=x"):
        check(client.get(path), 422, "invalid_request")
