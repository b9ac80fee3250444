"""Child processes that leave nothing behind: each in its own process group, and dead when this process is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from heatmill.local import child
from heatmill.local.errors import DidNotStart

POLL_SECONDS = 0.03
KILLED_SECONDS = 5.0
TAIL_LINES = 15
MAX_LOG_BYTES = 10 * 2**20


@dataclass(frozen=True)
class Program:
    """What to run.

    Args:
        name: Names the log file and the part in messages.
        command: Program and arguments; no secrets, since anyone on the machine can read them.
        folder: Where it runs; must exist.
        environment: All of its environment.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)


class Process:
    """A running program.

    Ctrl-C in a terminal does not reach it: whoever started it stops it, in an order of its own.

    Args:
        program: What to run.
        log: Gets its standard output and error, after what is there already.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.started_at = time.monotonic()
        wrapper = (sys.executable, "-I", "-S", child.__file__, str(os.getpid()))
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                (*wrapper, *program.command),
                cwd=program.folder,
                env=program.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process and of its group."""
        return self._popen.pid

    def has_ended(self) -> bool:
        """Whether it ended; the exit status stays unread, so that its number still belongs to its group."""
        if self._popen.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process, which tells its own children."""
        if not self.has_ended():
            self._popen.terminate()

    def end(self, grace_seconds: float) -> int:
        """Wait a while, then kill whatever is left of the group; the exit status is the answer."""
        deadline = time.monotonic() + grace_seconds
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if self._popen.returncode is None:
            # PermissionError: macOS says so where the group holds a dead process only.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._popen.wait(KILLED_SECONDS)

    def stop(self, grace_seconds: float) -> int:
        """Ask, wait, kill."""
        self.ask_to_stop()
        return self.end(grace_seconds)

    def tail(self) -> str:
        """The end of its log."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 20_000))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:])


def check_started(process: Process, answers: Callable[[], bool], seconds: float) -> bool:
    """Whether a process answers by now.

    Raises:
        DidNotStart: It ended, or had its time.
    """
    if process.has_ended():
        raise DidNotStart(f"{process.program.name} stopped while it was starting; {_where(process)}")
    if answers():
        return True
    if time.monotonic() > process.started_at + seconds:
        raise DidNotStart(f"{process.program.name} did not answer within {seconds:.0f} s; {_where(process)}")
    return False


@contextmanager
def running(program: Program, log: Path, answers: Callable[[], bool], seconds: float) -> Iterator[Process]:
    """A process that answers; killed at the end.

    Raises:
        DidNotStart: It ended, or did not answer in time.
    """
    process = Process(program, log)
    try:
        while not check_started(process, answers, seconds):
            time.sleep(POLL_SECONDS)
        yield process
    finally:
        process.end(0)


def fresh_log(folder: Path, name: str) -> Path:
    """Where a program logs; what earlier runs wrote is kept once it is long, and then dropped."""
    log = folder / f"{name}.log"
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(folder / f"{name}.old.log")
    return log


def _where(process: Process) -> str:
    return f"the end of {process.log}:\n{process.tail()}"
