"""Ports on loopback that nobody uses."""

import random
import socket
from collections.abc import Collection
from contextlib import closing

LOOPBACK = "127.0.0.1"
# Below the ports that Linux (32768-60999) and macOS (49152-65535) give to outgoing connections: one of those could
# sit on a server's port while the server is being restarted.
CANDIDATES = range(12_000, 22_000)


def free_ports(count: int, apart_from: Collection[int] = ()) -> list[int]:
    """This many different ports."""
    candidates = random.sample(CANDIDATES, len(CANDIDATES))
    free = (port for port in candidates if port not in apart_from and is_free(port))
    return [next(free) for _ in range(count)]


def port_near(wanted: int) -> int:
    """The wanted port, or another one where it is taken; 0 is any."""
    return wanted if wanted and is_free(wanted) else free_ports(1)[0]


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with closing(socket.socket()) as probe:
        # As servers do: a port whose last connections are still winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
