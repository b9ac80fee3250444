"""Bring parts up in order, keep them up, take them down in the opposite order. Used from one thread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from heatmill.local.processes import POLL_SECONDS, Process, Program, check_started, fresh_log
from heatmill.local.reaper import Reaper

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
STABLE_SECONDS = 30.0


@dataclass(frozen=True)
class Part:
    """A program and how to treat it.

    Args:
        program: What to run.
        grace_seconds: Between the request to stop and the kill.
        answers: Whether it is ready; a part without it is ready when it runs.
    """

    program: Program
    grace_seconds: float
    answers: Callable[[], bool] = lambda: True


class SupervisedProcess:
    """A part that is started again when it ends by itself.

    Args:
        part: The part.
        logs: Where its log is.
        reaper: Knows its process group while it runs.
    """

    def __init__(self, part: Part, logs: Path, reaper: Reaper) -> None:
        self.part = part
        self._log = fresh_log(logs, part.program.name)
        self._reaper = reaper
        self.process = self._started()
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._start_at: float | None = None

    def revive(self, say: Callable[[str], None]) -> None:
        """Start it again where it ended, after a pause that grows while it keeps ending."""
        if self._start_at is None and self.process.has_ended():
            self._plan_restart(say)
        if self._start_at is not None and time.monotonic() >= self._start_at:
            self._start_at = None
            self.process = self._started()

    def end(self) -> int:
        """Kill what is left of it; the exit status is the answer."""
        status = self.process.end(0)
        self._reaper.forget(self.process.pid)
        return status

    def _started(self) -> Process:
        process = Process(self.part.program, self._log)
        self._reaper.watch(process.pid)
        return process

    def _plan_restart(self, say: Callable[[str], None]) -> None:
        now = time.monotonic()
        if now - self.process.started_at > STABLE_SECONDS:
            self._pause_seconds = FIRST_PAUSE_SECONDS
        # Also kills what it left behind: a new worker must not find the old one's children at work.
        status = self.end()
        reason = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        say(f"{self.part.program.name} ended ({reason}) and is started again; its log is {self.process.log}")
        self._start_at = now + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)


class Supervisor:
    """Runs tiers of parts; each tier stands on the one before.

    Args:
        logs: A folder for the parts' logs.
        reaper: Kills what this cannot stop; closed at the end.
        should_stop: Asked all the time, also while parts start.
        say: Tells the operator something.
    """

    def __init__(self, logs: Path, reaper: Reaper, should_stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        self._logs = logs
        self._reaper = reaper
        self._should_stop = should_stop
        self._say = say
        self._tiers: list[list[SupervisedProcess]] = []

    def start(self, parts: Sequence[Part]) -> None:
        """Start a tier; it is stopped before those that were started earlier."""
        self._tiers.append([])
        self.start_more(parts)

    def start_more(self, parts: Sequence[Part]) -> None:
        """Start parts that belong to the last tier."""
        tier = self._tiers[-1]
        for part in parts:
            if not self._should_stop():
                # One by one: what runs already is stopped also where the next cannot be started.
                tier.append(SupervisedProcess(part, self._logs, self._reaper))

    def wait_for_answers(self, seconds: float) -> None:
        """Wait until every part answers, or the stack is to stop.

        Raises:
            DidNotStart: A part ended or did not answer in time.
        """
        waiting = [kept for tier in self._tiers for kept in tier]
        while waiting and not self._should_stop():
            waiting = [kept for kept in waiting if not check_started(kept.process, kept.part.answers, seconds)]
            time.sleep(POLL_SECONDS)

    def supervise(self) -> None:
        """Revive what ends, until the stack is to stop."""
        while not self._should_stop():
            for tier in self._tiers:
                for kept in tier:
                    self._revive(kept)
            time.sleep(POLL_SECONDS)

    def shut_down(self, force: Event) -> None:
        """Stop all of it, the last tier first; whoever hurries saves the grace."""
        for tier in reversed(self._tiers):
            for kept in tier:
                kept.process.ask_to_stop()
            asked_at = time.monotonic()
            for kept in tier:
                while not (
                    kept.process.has_ended() or force.is_set() or time.monotonic() > asked_at + kept.part.grace_seconds
                ):
                    time.sleep(POLL_SECONDS)
                kept.end()
        self._reaper.close()

    def _revive(self, kept: SupervisedProcess) -> None:
        try:
            kept.revive(self._say)
        except OSError as error:
            self._say(f"{kept.part.program.name} cannot be started: {error}")
