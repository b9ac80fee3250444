"""The API as gunicorn serves it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from heatmill.local.environment import of_services
from heatmill.local.object_store import Credentials
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.local.processes import running
from heatmill.local.services import api, api_answers
from tests.api.requests import body

LIMIT = 100_000


@pytest.fixture(scope="module")
def port(
    tmp_path_factory: pytest.TempPathFactory,
    redis_url: str,
    object_store_url: str,
    bucket: str,
    credentials: Credentials,
) -> Iterator[int]:
    """A served API; its settings come from the environment."""
    folder = tmp_path_factory.mktemp("api")
    (port,) = free_ports(1)
    settings = {
        "redis_url": redis_url,
        "s3_endpoint": object_store_url,
        "bucket": bucket,
        "max_body_bytes": str(LIMIT),
    }
    program = api(folder, port, of_services(settings, credentials.environment))
    with running(program, folder / "log", lambda: api_answers(port), 30):
        yield port


@pytest.fixture
def caller(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=30) as client:
        yield client


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
