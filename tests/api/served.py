"""The API in processes of its own, as an operator starts it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from heatmill.local.environment import of_services
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.local.processes import running
from heatmill.local.servers.seaweedfs import Credentials
from heatmill.local.services import api, api_answers

LIMIT = 100_000
CONNECTIONS_OF_ADDRESS = 200
MAX_HELD_BYTES = 150 * LIMIT


@dataclass(frozen=True)
class Served:
    """A served API."""

    port: int

    @contextmanager
    def connected(self, start: bytes = b"") -> Iterator[socket.socket]:
        """A connection on which so much of a request is sent."""
        with socket.create_connection((LOOPBACK, self.port), timeout=10) as connection:
            connection.sendall(start)
            yield connection


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    redis_url: str,
    object_store_url: str,
    bucket: str,
    credentials: Credentials,
) -> Iterator[Served]:
    """The API with one process; its settings come from the environment."""
    folder = tmp_path_factory.mktemp("api")
    (port,) = free_ports(1)
    settings = {
        "redis_url": redis_url,
        "s3_endpoint": object_store_url,
        "bucket": bucket,
        "max_body_bytes": str(LIMIT),
        "max_held_bytes": str(MAX_HELD_BYTES),
        "max_connections_of_address": str(CONNECTIONS_OF_ADDRESS),
    }
    program = api(folder, port, of_services(settings, credentials.environment))
    with running(program, folder / "log", lambda: api_answers(port), 30):
        yield Served(port)


@pytest.fixture
def caller(served: Served) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=f"http://{LOOPBACK}:{served.port}", trust_env=False, timeout=30) as client:
        yield client
