"""The API as gunicorn serves it."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from heatmill_api.waitress_worker import MAX_HEADER_BYTES
from tests.api.requests import body
from tests.api.served import LIMIT, Served, caller, served

__all__ = ["caller", "served"]


def test_a_job_is_accepted_and_read_back(caller: httpx.Client) -> None:
    answer = caller.post("/v1/jobs", json=body())
    assert answer.status_code == 202
    assert caller.get(answer.headers["Location"]).json()["id"] == answer.json()["id"]


def test_a_chunked_body_is_read_up_to_the_limit(caller: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for size, status in ((1, 202), (LIMIT, 413)):
        # A body without a known length is sent in chunks.
        chunks = iter([json.dumps(body()).encode(), b" " * size])
        answer = caller.post("/v1/jobs", content=chunks, headers=headers)
        assert answer.request.headers["Transfer-Encoding"] == "chunked"
        assert answer.status_code == status, answer.text
    assert f"{LIMIT:,} bytes" in answer.text


def test_a_chunked_form_is_read_up_to_the_limit(caller: httpx.Client) -> None:
    request = json.dumps({**body(), "items": None}).encode()
    for size, status in ((1, 202), (LIMIT, 413)):
        parts = [("request", (None, request)), ("images", ("a.png", b"x" * size))]
        form = httpx.Request("POST", "http://test/", files=parts)
        headers = {"Content-Type": form.headers["Content-Type"]}
        answer = caller.post("/v1/jobs", content=iter([form.read()]), headers=headers)
        assert answer.request.headers["Transfer-Encoding"] == "chunked"
        assert answer.status_code == status, answer.text
    assert f"{LIMIT:,} bytes" in answer.text


def test_an_items_slashes_survive_the_way(caller: httpx.Client) -> None:
    job = caller.post("/v1/jobs", json=body()).json()["id"]
    answer = caller.get(f"/v1/jobs/{job}/results/a%2F%2Fb%2F%2E%2E%2Fc/saliency/heatmap.png")
    assert "'a//b/../c'" in answer.json()["detail"]


def test_health_is_told_while_many_wait(caller: httpx.Client) -> None:
    job = caller.post("/v1/jobs", json=body()).json()["id"]
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(caller.get, f"/v1/jobs/{job}?wait=1.5") for _ in range(20)]
        assert caller.get("/livez").elapsed.total_seconds() < 1.4
        assert {one.result().status_code for one in waiting} == {200}


@pytest.mark.parametrize(
    ("request_head", "code"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: h\r\nno header\r\n\r\n", "malformed_request"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * MAX_HEADER_BYTES, "request_header_fields_too_large"),
        (f"POST /v1/jobs HTTP/1.1\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode(), "too_large"),
    ],
)
def test_what_the_application_never_sees_is_answered_with_a_problem(
    served: Served, request_head: bytes, code: str
) -> None:
    with served.connected(request_head) as connection:
        head, _, problem = b"".join(iter(partial(connection.recv, 4096), b"")).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(problem)["type"].endswith(f"/{code}")
