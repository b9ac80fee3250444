"""`heatmill up` says what the service stands on and does not have."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from heatmill.local.health import faults_told

OK = {"status": "ok", "message": ""}
FULL = {"status": "read_only", "message": "it takes nothing: no room"}


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, object]]]:
    """What /readyz answers, and where."""
    told: dict[str, object] = {"redis": OK, "storage": OK}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_fault_is_said_once_and_so_is_its_end(answers: tuple[str, dict[str, object]]) -> None:
    url, told = answers
    said: list[str] = []
    with faults_told(url, said.append, seconds=0.02):
        time.sleep(0.2)
        assert said == []
        told["storage"] = FULL
        wait_for(said, 1)
        time.sleep(0.2)
        told["storage"] = OK
        wait_for(said, 2)

    assert said == [
        "the object store: it takes nothing: no room",
        "the object store and Redis answer again",
    ]


def wait_for(said: list[str], count: int) -> None:
    deadline = time.monotonic() + 5
    while len(said) < count and time.monotonic() < deadline:
        time.sleep(0.01)
