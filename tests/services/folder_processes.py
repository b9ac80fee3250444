"""What runs in a test's folder, by whoever it was started. Linux only."""

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LISTENING = "0A"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def running_in(folder: Path) -> dict[int, str]:
    """Process ids and command lines of all whose working directory is this folder or below.

    A mark in the environment would not do: Redis overwrites its own with a title.
    """
    return {
        int(process.name): (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for process in Path("/proc").glob("[0-9]*")
        if _runs_in(process, folder)
    }


def listening_addresses(pids: list[int]) -> set[tuple[str, int]]:
    """Where these processes accept TCP connections."""
    inodes = set(_socket_inodes(pids))
    return {address for inode, address in _listeners() if inode in inodes}


def eventually(is_so: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def _listeners() -> Iterator[tuple[str, tuple[str, int]]]:
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, status, *rest = line.split()
            host, port = local.split(":")
            if status == LISTENING:
                yield rest[5], (_address(host), int(port, 16))


def _address(text: str) -> str:
    if len(text) == 8:
        return socket.inet_ntoa(struct.pack("<L", int(text, 16)))
    return f"ipv6 {text}"


def _socket_inodes(pids: list[int]) -> Iterator[str]:
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = _target(link)
            if target.startswith("socket:["):
                yield target.removeprefix("socket:[").removesuffix("]")


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        # A descriptor that was closed while they were listed.
        return ""


def _runs_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:
        # It ended, or is another user's.
        return False
