"""Patience: what is tried again, for how long, and what an error becomes."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel

from heatmill.client.http import Retries, Transport, read_answer, retry_after, service_url
from heatmill.errors import InvalidRequest, JobNotFound, RequestError, ServiceUnavailable, TooLarge
from tests.shared.scripted import Reply, document, problem, scripted

IMPATIENT = Retries(first_seconds=0.01, longest_seconds=0.02, patience_seconds=0.3, connect_patience_seconds=0.1)
PATIENT = Retries(first_seconds=0.01, longest_seconds=0.02, patience_seconds=20, connect_patience_seconds=20)


@contextmanager
def transport(url: str, retries: Retries = PATIENT) -> Iterator[Transport]:
    opened = Transport(url, {}, retries)
    try:
        yield opened
    finally:
        opened.close()


def nobody() -> str:
    """A URL where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("failure", [Reply(502), Reply(503), Reply(504), Reply(429), Reply(drops=True)], ids=str)
def test_what_passes_is_tried_again_until_it_has_passed(failure: Reply) -> None:
    with scripted(failure, failure, document({"fine": True})) as server, transport(server.url) as http:
        assert http.send("GET", "/v1/jobs").json() == {"fine": True}
        assert len(server.asked) == 3


def test_an_answer_that_breaks_off_is_tried_again() -> None:
    half = Reply(body=b'{"fine"', headers={"Content-Length": "14"})
    with scripted(half, document({"fine": True})) as server, transport(server.url) as http:
        assert http.send("GET", "/v1/jobs").json() == {"fine": True}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "a name of \udcff bytes"])
def test_what_json_cannot_hold_is_refused_before_it_is_sent(value: object) -> None:
    with (
        scripted(Reply()) as server,
        transport(server.url) as http,
        pytest.raises(InvalidRequest, match="cannot be written as JSON"),
    ):
        http.send("POST", "/v1/jobs", json={"params": [value]})
    assert server.asked == []


def test_retry_after_is_honoured() -> None:
    with scripted(Reply(503, headers={"Retry-After": "1"}), Reply()) as server, transport(server.url) as http:
        started = time.monotonic()
        http.send("GET", "/v1/jobs")
        assert 1.0 <= time.monotonic() - started < 5.0


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < retry_after(httpx.Response(503, headers={"Retry-After": later})) <= 30


@pytest.mark.parametrize("value", ["", "soon", "-5", "Mon, 01 Jan 2001 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00"])
def test_a_retry_after_that_says_nothing_asks_for_no_pause(value: str) -> None:
    assert retry_after(httpx.Response(503, headers={"Retry-After": value})) == 0


def test_a_service_that_asks_for_more_patience_than_there_is_is_not_waited_for() -> None:
    with scripted(Reply(503, headers={"Retry-After": "3600"})) as server, transport(server.url, IMPATIENT) as http:
        with pytest.raises(ServiceUnavailable, match="answered 503"):
            http.send("GET", "/v1/jobs")
        assert len(server.asked) == 1


def test_patience_ends() -> None:
    with scripted(Reply(503)) as server, transport(server.url, IMPATIENT) as http:
        with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:\d+/v1/jobs answered 503"):
            http.send("GET", "/v1/jobs", params={"page_token": "secret"})
        assert len(server.asked) > 3


def test_a_host_that_never_answered_is_given_up_sooner_than_one_that_has() -> None:
    retries = Retries(first_seconds=0.01, longest_seconds=0.02, patience_seconds=60, connect_patience_seconds=0.1)
    with transport(nobody(), retries) as http:
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="cannot be reached"):
            http.send("GET", "/v1/jobs")
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(404, "job_not_found", "there is no job x"), JobNotFound),
        (problem(413, "too_large", "over the limit"), TooLarge),
        (problem(422, "from_the_future", "a fault that this client does not know"), RequestError),
    ],
)
def test_a_problem_becomes_the_error_of_its_type_and_is_not_tried_again(
    reply: Reply, error: type[RequestError]
) -> None:
    with scripted(reply) as server, transport(server.url) as http:
        with pytest.raises(RequestError) as raised:
            http.send("GET", "/v1/jobs/x")
        assert type(raised.value) is error
        assert str(raised.value) in reply.body.decode()
        assert len(server.asked) == 1


def test_an_error_keeps_its_pointers() -> None:
    faults = [{"pointer": "/items/3/image", "detail": "names a folder"}]
    with (
        scripted(problem(422, "invalid_request", "wrong", errors=faults)) as server,
        transport(server.url) as http,
        pytest.raises(InvalidRequest) as raised,
    ):
        http.send("POST", "/v1/jobs", json={})
    assert raised.value.errors == faults


@pytest.mark.parametrize("reply", [Reply(404, b"<html>"), Reply(301), problem(500, "internal_error", "x"), Reply(400)])
def test_an_error_that_is_not_the_callers_says_what_answered(reply: Reply) -> None:
    with (
        scripted(reply) as server,
        transport(server.url) as http,
        pytest.raises(ServiceUnavailable, match=f"/v1/jobs answered {reply.status}"),
    ):
        http.send("GET", "/v1/jobs")


def test_a_file_is_sent_whole_again_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(bytes(range(256)) * 2000)
    size = {"Content-Length": str(path.stat().st_size)}
    with scripted(Reply(503), Reply(drops=True), Reply()) as server, transport("") as http:
        http.send("PUT", f"{server.url}/bucket/key", file=path, headers=size)
        assert [asked.body for asked in server.asked] == [path.read_bytes()] * 3
        assert all("Transfer-Encoding" not in asked.headers for asked in server.asked)


def test_a_proxy_of_the_environment_never_leads_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nobody())
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with scripted(document({})) as server, transport(server.url) as http:
        assert http.send("GET", "/").status_code == 200


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:port", "heatmill"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidRequest, match="URL"):
        service_url(url)


class Answer(BaseModel):
    """What a test expects."""

    fine: bool


def test_fields_that_a_newer_service_has_added_are_passed_over() -> None:
    with scripted(document({"fine": True, "new": 1})) as server, transport(server.url) as http:
        assert read_answer(http.send("GET", "/"), Answer) == Answer(fine=True)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"\xff"])
def test_something_else_than_heatmill_is_recognised(body: bytes) -> None:
    with (
        scripted(Reply(body=body)) as server,
        transport(server.url) as http,
        pytest.raises(ServiceUnavailable, match="did not answer as heatmill does"),
    ):
        read_answer(http.send("GET", "/"), Answer)


@pytest.mark.parametrize("reply", [Reply(206, b"part"), Reply(200, b"a part of it")], ids=["ranged", "whole"])
def test_a_part_is_asked_for_and_cut_out_where_the_whole_comes(reply: Reply) -> None:
    with scripted(reply) as server, transport(server.url) as http:
        assert http.read("/tar", "bytes=2-5") == b"part"
        assert server.asked[0].headers["Range"] == "bytes=2-5"
