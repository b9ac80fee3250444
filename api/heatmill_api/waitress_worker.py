"""A gunicorn worker that gives a request a thread when all of it is here, and takes the thread back before it is read.

gunicorn starts, watches and replaces the processes; inside of each, waitress holds the connections. A client that
sends its request, or reads its answer, byte by byte holds a connection and no thread (docs/decisions/0021).
"""

import os
import resource
import time
from collections.abc import Mapping
from http import HTTPStatus
from socket import socket
from typing import Any

from gunicorn.workers.base import Worker
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from heatmill.errors import MalformedRequest, TooLarge
from heatmill.schemas import Problem, problem_type

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

Connections = dict[int, Any]


class WaitressWorker(Worker):  # type: ignore[misc]
    """Serves gunicorn's sockets until it is told to stop; then it answers what it has begun to read."""

    def run(self) -> None:
        """Serve."""
        connections: Connections = {}
        threads = ThreadedTaskDispatcher()
        threads.set_thread_count(self.cfg.threads)
        limits = Limits(self.wsgi.config)
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
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
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


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request on its way."""

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self._begun = time.monotonic()

    @property
    def is_late(self) -> bool:
        """Whether it has been on its way for longer than any should be."""
        seconds = REQUEST_SECONDS if self.headers_finished else HEADER_SECONDS
        return time.monotonic() - self._begun > seconds


class Refusal(ErrorTask):  # type: ignore[misc]
    """The answer to what is no request that the application could be given: a problem, like its own answers."""

    def execute(self) -> None:
        """Write it."""
        error = self.request.error
        status = HTTPStatus(error.code)
        body = refusal(status, error.body, self.channel.adj.max_request_body_size).encode()
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.append(("Content-Type", "application/problem+json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


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


def refusal(status: HTTPStatus, detail: str, max_body_bytes: int) -> str:
    """A problem as JSON."""
    error = {
        HTTPStatus.BAD_REQUEST: MalformedRequest(detail),
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge(f"the request has more than {max_body_bytes:,} bytes, the limit"),
    }.get(status)
    code = error.code if error else status.phrase.lower().replace(" ", "_")
    problem = Problem(type=problem_type(code), title=status.phrase, status=status, detail=str(error or detail))
    return problem.model_dump_json()
