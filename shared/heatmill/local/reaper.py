"""A small process that outlives the stack by a moment and kills what the stack could not stop.

A child dies with its parent (see `child.py`), but not that child's own children: Celery's timer is one that would go
on. So a process of its own is told every process group by pipe. When the pipe closes, because the stack stopped or was
killed, it kills the groups that are left. Until then it keeps the data folder locked.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ENDED_SECONDS = 10.0
# Killed processes are gone at once, but their entries stay for as long as their new parent, often an idle one, takes.
DEATH_SECONDS = 0.4


class Reaper:
    """The stack's end of the pipe.

    Args:
        folder: Where the process runs.
        lock: A file that stays open until all is dead.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self._popen = subprocess.Popen(
            (sys.executable, "-I", "-S", __file__),
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
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
    deadline = time.monotonic() + DEATH_SECONDS
    while groups and time.monotonic() < deadline:
        groups = {group for group in groups if _kill(group)}
        time.sleep(0.01)


def _kill(group: int) -> bool:
    """Whether there was anything to kill."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main(sys.stdin)
