"""A small HTTP server that answers as a test has written down: what networks do, done by a network."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from heatmill.schemas import problem_type


@dataclass(frozen=True)
class Reply:
    """One answer; `drops` closes the connection without any."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Scripted:
    """A running server: what it will say, the last reply over and over, and what it was asked."""

    url: str
    replies: list[Reply]
    asked: list[Asked] = field(default_factory=list)

    def next(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        return self.replies[min(len(self.asked), len(self.replies)) - 1]


def document(content: object, status: int = 200, **headers: str) -> Reply:
    """An answer in JSON."""
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})


def problem(status: int, code: str, detail: str, **more: Any) -> Reply:
    """An RFC 9457 problem, as the API makes them."""
    content = {"type": problem_type(code), "title": code, "status": status, "detail": detail, **more}
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/problem+json"})


@contextmanager
def scripted(*replies: Reply) -> Iterator[Scripted]:
    """Serve these replies, one a request."""
    script = Scripted("", list(replies))

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = script.next(Asked(self.command, self.path, dict(self.headers), body))
            if reply.drops:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
