"""A small process that outlives the stack by a moment and kills what the stack could not stop.

A child dies with its parent (see `child.py`), but not that child's own children: Celery's timer is one that would go
on. So a process of its own is told every process group by pipe. When the pipe closes, because the stack stopped or was
killed, it kills the groups that are left.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ENDED_SECONDS = 10.0


class Reaper:
    """The stack's end of the pipe.

    Args:
        folder: Where the process runs.
    """

    def __init__(self, folder: Path) -> None:
        self._popen = subprocess.Popen(
            (sys.executable, "-I", "-S", __file__),
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Kill this group in the end."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """This group has ended; its number may be given to somebody else."""
        self._tell(f"-{group}")

    def close(self) -> None:
        """Kill what is left, and wait for that."""
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.close()
        self._popen.wait(ENDED_SECONDS)

    def _tell(self, line: str) -> None:
        # Where somebody killed the reaper, what it would have done is not worth failing for.
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.write(f"{line}\n")
                self._popen.stdin.flush()


def main(lines: Iterable[str]) -> None:
    """The other end: remember groups until the pipe closes, then kill them."""
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.stdin)
