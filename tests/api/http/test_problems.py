"""Every error is a problem."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from heatmill import errors
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_api.http.problems import STATUS
from tests.api.requests import answered, body

CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


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


def test_json_has_a_limit_of_its_own_and_more_items_go_into_a_manifest(services: ApiContext) -> None:
    small = services.settings.model_copy(update={"max_json_bytes": 1000})
    client = create_app(replace(services, settings=small)).test_client()
    text = json.dumps(body(metadata={"note": "x" * 500, "more": "x" * 500})).encode()
    form = {"request": text.decode(), "images": (io.BytesIO(b"x" * 2000), "a.png")}
    for options in (
        {"data": text, "content_type": "application/json"},
        {"input_stream": io.BytesIO(text), "content_type": "application/json", "environ_base": CHUNKED},
        {"data": form},
    ):
        detail = check(client.post("/v1/jobs", **options), 413, "too_large")["detail"]
        assert "1,000 bytes" in detail
        assert "manifest" in detail
    assert client.post("/v1/jobs", json=body()).status_code == 202


@pytest.mark.timeout(20)
def test_an_answer_points_at_a_hundred_faults_and_counts_the_others(services: ApiContext) -> None:
    large = services.settings.model_copy(update={"max_body_bytes": 2**22})
    client = create_app(replace(services, settings=large)).test_client()
    unknown = {f"name {number}": number for number in range(40_000)}
    problem = check(client.post("/v1/jobs", json=body() | unknown), 422, "invalid_request")
    assert len(problem["errors"]) == 100
    assert "39,999 more" in problem["detail"]


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
