"""A gunicorn worker that gives a request a thread when all of it is here, and takes the thread back before it is read.

gunicorn starts, watches and replaces the processes; inside of each, waitress holds the connections. A client that
sends its request, or reads its answer, byte by byte holds a connection and no thread (docs/decisions/0021).
"""

import os
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from socket import socket
from typing import Any

from flask import Flask
from gunicorn.workers.base import Worker
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error

from heatmill.errors import MalformedRequest, TooLarge, Unauthorized
from heatmill.schemas import Problem, problem_type
from heatmill_api.http.auth import key_in, keys_of

MAX_HEADER_BYTES = 32 * 1024
# From a request's first byte to the end of its header, and to the end of its body.
HEADER_SECONDS = 30.0
REQUEST_SECONDS = 600.0
# Without a byte in either direction.
IDLE_SECONDS = 120
# Each connection may have files beside its socket: its request, where that is long, and its answer.
FILES_OF_CONNECTION = 3
OTHER_FILES = 200
CLEANUP_SECONDS = 5
TURN_SECONDS = 1.0
RETRY_SECONDS = 1
# Taken from everybody: where more is on its way, a client may see that the connection ends, and not why.
SMALL_BODY = 2**20

Connections = dict[int, Any]
Headers = Mapping[str, str]


class WaitressWorker(Worker):  # type: ignore[misc]
    """Serves gunicorn's sockets until it is told to stop; then it answers what it has begun to read."""

    def run(self) -> None:
        """Serve."""
        connections: Connections = {}
        threads = ThreadedTaskDispatcher()
        threads.queue = Turns()
        threads.set_thread_count(self.cfg.threads)
        limits = Limits(self.wsgi.config, connections, partial(_refused_key, self.wsgi))
        servers = [Server(self.wsgi, connections, listener.sock, threads, limits) for listener in self.sockets]
        while self.alive and os.getppid() == self.ppid:
            self._turn(connections)
        for server in servers:
            server.stop_accepting()
        end = time.monotonic() + self.cfg.graceful_timeout
        while any(server.active_channels for server in servers) and time.monotonic() < end:
            for server in servers:
                server.close_idle()
            self._turn(connections)
        threads.shutdown()

    def _turn(self, connections: Connections) -> None:
        self.notify()
        wasyncore.loop(timeout=TURN_SECONDS, use_poll=True, map=connections, count=1)


class Limits(Adjustments):  # type: ignore[misc]
    """Waitress' limits, and ours.

    Args:
        config: The application's.
        connections: All of this process.
        refused_key: Why a request with these headers may send no body; None where it may.
    """

    def __init__(
        self, config: Mapping[str, Any], connections: Connections, refused_key: Callable[[Headers], str | None]
    ) -> None:
        super().__init__(
            connection_limit=_connections(config["MAX_CONNECTIONS"]),
            max_request_body_size=config["MAX_CONTENT_LENGTH"],
            max_request_header_size=MAX_HEADER_BYTES,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=CLEANUP_SECONDS,
            asyncore_use_poll=True,
            recv_bytes=64 * 1024,
            log_socket_errors=False,
        )
        self.connections_of_address: int = config["MAX_CONNECTIONS_OF_ADDRESS"]
        self.held_bytes: int = config["MAX_HELD_BYTES"]
        self.refused_key = refused_key
        self._connections = connections

    def holds(self) -> int:
        """How many bytes the bodies take that are here or announced, that of a request whose header just came too."""
        channels = (each for each in self._connections.values() if isinstance(each, Channel))
        return sum(request.weight for each in channels for request in (each.request, *each.requests) if request)


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request on its way."""

    completed: bool

    def __init__(self, adj: Limits) -> None:
        super().__init__(adj)
        self._begun = time.monotonic()

    def received(self, data: bytes) -> int:
        """Take bytes; a large body only from who has a key, and any as long as there is room for it."""
        awaits_header = not self.headers_finished
        consumed: int = super().received(data)
        if awaits_header and self.headers_finished and not self.completed:
            self.error = self._refused()
            self.completed = self.error is not None
        return consumed

    @property
    def weight(self) -> int:
        """How many bytes its body takes, or may take."""
        if self.completed:
            return int(self.body_bytes_received)
        return int(self.adj.max_request_body_size if self.chunked else self.content_length)

    def _refused(self) -> Error | None:
        if self.weight > SMALL_BODY and (reason := self.adj.refused_key(self.headers)) is not None:
            return Unadmitted(reason)
        if self.adj.holds() > self.adj.held_bytes:
            return NoRoom("too many requests are being sent at once; send it again")
        return None

    @property
    def is_late(self) -> bool:
        """Whether it has been on its way for longer than any should be."""
        seconds = REQUEST_SECONDS if self.headers_finished else HEADER_SECONDS
        return time.monotonic() - self._begun > seconds


class Unadmitted(Error):  # type: ignore[misc]
    """Whoever sends a body has no key."""

    code = HTTPStatus.UNAUTHORIZED.value
    reason = HTTPStatus.UNAUTHORIZED.phrase


class NoRoom(Error):  # type: ignore[misc]
    """There is no room for another body."""

    code = HTTPStatus.SERVICE_UNAVAILABLE.value
    reason = HTTPStatus.SERVICE_UNAVAILABLE.phrase


class Refusal(ErrorTask):  # type: ignore[misc]
    """The answer to what is no request that the application could be given: a problem, like its own answers."""

    def execute(self) -> None:
        """Write it."""
        error = self.request.error
        status = HTTPStatus(error.code)
        body = refusal(status, error.body, self.channel.adj.max_request_body_size).encode()
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.append(("Content-Type", "application/problem+json"))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.response_headers.append(("Retry-After", str(RETRY_SECONDS)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Turns:
    """Requests that wait for a thread: addresses take turns, however many one of them sends.

    It stands in for waitress' queue, which holds its lock around every call.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[HTTPChannel]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def append(self, channel: HTTPChannel) -> None:
        """Let a request wait, behind the others of its address."""
        self._waiting.setdefault(channel.addr[0], deque()).append(channel)

    def popleft(self) -> HTTPChannel:
        """The next one of the address that has waited longest."""
        address, requests = next(iter(self._waiting.items()))
        channel = requests.popleft()
        del self._waiting[address]
        if requests:
            self._waiting[address] = requests
        return channel


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection."""

    parser_class = Parser
    error_task_class = Refusal

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request or an answer is on its way."""
        return self.request is None and not self.requests and not self.total_outbufs_len


class Server(TcpWSGIServer):  # type: ignore[misc]
    """A listening socket and its connections.

    Args:
        application: The WSGI application.
        connections: All sockets of this process by their file number.
        listener: Shared with the other processes.
        threads: What runs the application.
        limits: For all of them.
    """

    def __init__(
        self,
        application: object,
        connections: Connections,
        listener: socket,
        threads: ThreadedTaskDispatcher,
        limits: Limits,
    ) -> None:
        info = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            application, connections, True, listener, dispatcher=threads, adj=limits, sockinfo=info, bind_socket=False
        )

    def channel_class(
        self, _: TcpWSGIServer, connection: socket, address: tuple[str, int], adj: Limits, **more: Any
    ) -> None:
        """Take a connection, unless its address has its share."""
        others = sum(channel.addr[0] == address[0] for channel in self.active_channels.values())
        if others >= adj.connections_of_address:
            connection.close()
            return
        Channel(self, connection, address, adj, **more)

    def maintenance(self, now: float) -> None:
        """End the connections that are silent, as waitress does, and those whose request takes too long."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.request is not None and channel.request.is_late:
                channel.will_close = True

    def stop_accepting(self) -> None:
        """Leave what comes to the other processes."""
        self.del_channel()
        self.socket.close()

    def close_idle(self) -> None:
        """End the connections on which nothing is on its way."""
        for channel in self.active_channels.values():
            channel.will_close |= channel.is_idle


def _connections(wanted: int) -> int:
    """How many connections this process has files for; it asks for as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted * FILES_OF_CONNECTION + OTHER_FILES
    if resource.RLIM_INFINITY not in {soft, hard}:
        files = min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    return (files - OTHER_FILES) // FILES_OF_CONNECTION


def _refused_key(app: Flask, headers: Headers) -> str | None:
    """Why a request with these headers, as waitress names them, has no key that is known."""
    try:
        keys_of(app).tenant(key_in(headers.get("AUTHORIZATION"), headers.get("X_API_KEY")))
    except Unauthorized as error:
        return str(error)
    return None


def refusal(status: HTTPStatus, detail: str, max_body_bytes: int) -> str:
    """A problem as JSON."""
    error = {
        HTTPStatus.BAD_REQUEST: MalformedRequest(detail),
        HTTPStatus.UNAUTHORIZED: Unauthorized(detail),
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge(f"the request has more than {max_body_bytes:,} bytes, the limit"),
    }.get(status)
    code = error.code if error else status.phrase.lower().replace(" ", "_")
    problem = Problem(type=problem_type(code), title=status.phrase, status=status, detail=str(error or detail))
    return problem.model_dump_json()
