"""Clients that are slow, on purpose or by their line, cost others nothing."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from types import SimpleNamespace

import httpx
import pytest

from heatmill_api import waitress_worker
from heatmill_api.waitress_worker import SMALL_BODY
from tests.api.requests import body
from tests.api.served import CONNECTIONS_OF_ADDRESS, LIMIT, MAX_HELD_BYTES, Served, caller, served

__all__ = ["caller", "served"]

SLOW = 120
SECONDS = 1.0
HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
KINDS: dict[str, tuple[bytes, Callable[[socket.socket], object]]] = {
    "send nothing": (b"", socket.socket.fileno),
    "send a header": (b"GET /livez HTTP/1.1\r\nX: ", lambda connection: connection.sendall(b"a")),
    "send a body": (HEAD + b"Content-Length: 50000\r\n\r\n{", lambda connection: connection.sendall(b" ")),
    "send chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", lambda connection: connection.sendall(b"1\r\n \r\n")),
    "read an answer": (b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n", lambda connection: connection.recv(1)),
    "read nothing": (b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n", socket.socket.fileno),
}


@pytest.mark.parametrize("kind", KINDS)
def test_many_who_are_slow_do_not_slow_down_another(served: Served, caller: httpx.Client, kind: str) -> None:
    start, step = KINDS[kind]
    with ExitStack() as stack:
        slow = [stack.enter_context(served.connected(start)) for _ in range(SLOW)]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for connection in slow:
                step(connection)
            assert caller.get("/livez").elapsed.total_seconds() < 1
            assert caller.get("/v1/methods").elapsed.total_seconds() < 1


def test_long_polls_leave_threads_for_others(served: Served, caller: httpx.Client) -> None:
    job = caller.post("/v1/jobs", json=body()).json()["id"]
    poll = f"GET /v1/jobs/{job}?wait=2 HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(SLOW):
            stack.enter_context(served.connected(poll))
        for _ in range(20):
            assert caller.get("/v1/methods").elapsed.total_seconds() < 1


def test_one_address_does_not_take_all_connections(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_OF_ADDRESS):
            stack.enter_context(served.connected())
        # Accepted by the kernel, and closed as soon as the process sees it.
        assert stack.enter_context(served.connected()).recv(1) == b""


@pytest.mark.verify
@pytest.mark.timeout(300)
def test_twenty_thousand_requests_meet_no_pause(caller: httpx.Client) -> None:
    job = caller.post("/v1/jobs", json=body()).json()["id"]

    assert max(caller.get(f"/v1/jobs/{job}").elapsed.total_seconds() for _ in range(20_000)) < 1


def test_bodies_beyond_what_a_process_holds_are_refused_and_welcome_later(served: Served, caller: httpx.Client) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_HELD_BYTES // LIMIT + 5):
            stack.enter_context(served.connected(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n"))
        assert caller.get("/v1/methods").status_code == HTTPStatus.OK
        refused = caller.post("/v1/jobs", json=body())
    assert (refused.status_code, refused.headers["Retry-After"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "1")
    assert refused.json()["type"].endswith("service_unavailable")
    time.sleep(1)
    assert caller.post("/v1/jobs", json=body()).status_code == HTTPStatus.ACCEPTED


def parser(refused_key: str | None = None) -> waitress_worker.Parser:
    limits = {"MAX_CONNECTIONS": 10, "MAX_CONNECTIONS_OF_ADDRESS": 5, "MAX_CONTENT_LENGTH": 4 * SMALL_BODY}
    return waitress_worker.Parser(
        waitress_worker.Limits({**limits, "MAX_HELD_BYTES": 4 * SMALL_BODY}, {}, lambda headers: refused_key)
    )


@pytest.mark.parametrize("length", [b"Content-Length: 2000000", b"Transfer-Encoding: chunked"])
def test_a_large_body_is_not_taken_without_a_key(length: bytes) -> None:
    request, known = parser("the API key is unknown"), parser()
    for each in (request, known):
        each.received(HEAD + length + b"\r\n\r\n")
    assert (request.completed, known.completed) == (True, False)
    assert request.error is not None
    assert request.error.code == HTTPStatus.UNAUTHORIZED


def test_addresses_take_turns() -> None:
    turns = waitress_worker.Turns()
    for address in ("a", "a", "a", "b", "c", "b"):
        turns.append(SimpleNamespace(addr=(address, 1)))
    assert len(turns) == 6
    assert "".join(turns.popleft().addr[0] for _ in range(6)) == "abcaba"
    assert not turns


@pytest.mark.parametrize("start", [b"GET /livez HTTP/1.1\r\n", HEAD + b"Content-Length: 10\r\n\r\n"])
def test_a_request_that_takes_too_long_is_late(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {
        "MAX_CONNECTIONS": 10,
        "MAX_CONNECTIONS_OF_ADDRESS": 5,
        "MAX_CONTENT_LENGTH": LIMIT,
        "MAX_HELD_BYTES": LIMIT,
    }
    request = waitress_worker.Parser(waitress_worker.Limits(limits, {}, lambda headers: None))
    request.received(start)
    assert not request.is_late

    begun = time.monotonic()
    seconds = waitress_worker.REQUEST_SECONDS if request.headers_finished else waitress_worker.HEADER_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: begun + seconds + 1)

    assert request.is_late
