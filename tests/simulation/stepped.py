"""One clock, one random source, and actors of which one runs at a time: the same seed gives the same order of all.

An actor is a thread that waits for its turn, so that the product's code runs as it is. It gives its turn away where it
sleeps, and before and after each call of the store or of Redis (`calls`). A process is what dies, or stands still, as
one: its actors, and the heartbeats that the product starts.
"""

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random

# 2026-01-01, so that dates and times to live are plausible.
START = 1_767_225_600.0
REAL_SECONDS = 30.0


class Killed(BaseException):
    """The process has died: nothing that it does afterwards has an effect."""


@dataclass(eq=False)
class Process:
    """What dies or stands still as one.

    Args:
        place: The same after a restart.
        immortal: Faults do not strike it.
    """

    name: str
    place: str = ""
    immortal: bool = False
    alive: bool = True
    frozen_until: float = 0.0


class Actor:
    """A thread that runs when it is its turn."""

    def __init__(self, steps: "Steps", process: Process, run: Callable[[], None]) -> None:
        self.process, self.done = process, False
        self._steps, self._run = steps, run
        # A bare lock changes hands in a fifth of a semaphore's time.
        self.turn = threading.Lock()
        self.turn.acquire()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._live, daemon=True)

    def _live(self) -> None:
        self.turn.acquire()
        try:
            if self.process.alive:
                self._run()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - told by whoever steps
            self.error = error
        self.done = True
        self._steps.give_back()


class Steps:
    """The clock and whose turn it is.

    Args:
        seed: Of all that is random.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - to be had again
        self.now = START
        self.trace: list[str] = []
        self.names = count()
        self.current: Actor | None = None
        self._heap: list[tuple[float, int, Actor]] = []
        self._order = count()
        self._returned = threading.Lock()
        self._returned.acquire()
        self._actors: list[Actor] = []

    def note(self, text: str) -> None:
        """Write an event down."""
        who = self.current.process.name if self.current else "-"
        self.trace.append(f"{self.now - START:9.3f} {who:12} {text}")

    def spawn(self, process: Process, run: Callable[[], None], after: float = 0.0) -> Actor:
        """Let something run in a process, from some time on."""
        actor = Actor(self, process, run)
        self._actors.append(actor)
        actor.thread.start()
        self._push(self.now + after, actor)
        return actor

    def sleep(self, seconds: float) -> None:
        """Let others run for a while; in a process that is dead, nothing goes on."""
        actor = self._running()
        until = self.now + seconds
        while True:
            if not actor.process.alive:
                raise Killed
            if self._heap and self._heap[0][0] < until:
                self._push(until, actor)
                self.give_back()
                actor.turn.acquire()
            else:
                self.now = max(self.now, until)
            until = actor.process.frozen_until
            if not actor.process.alive:
                raise Killed
            if self.now >= until:
                return

    def run(self, is_over: Callable[[], bool], limit: float) -> bool:
        """Run until something is so; False where it is not at the limit."""
        while not is_over():
            if not self._heap or self._heap[0][0] > limit:
                return False
            when, _, actor = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            self._let(actor)
            if actor.error is not None:
                raise actor.error
        return True

    def end(self) -> None:
        """Let each actor end, as dead."""
        for actor in self._actors:
            actor.process.alive = False
        for actor in self._actors:
            while not actor.done:
                self._let(actor)
        self._heap.clear()
        self._actors.clear()

    def give_back(self) -> None:
        """End the turn of the actor that runs."""
        self._returned.release()

    def _let(self, actor: Actor) -> None:
        if actor.done:
            return
        self.current = actor
        actor.turn.release()
        if not self._returned.acquire(timeout=REAL_SECONDS):
            raise RuntimeError(f"{actor.process.name} waits for something that is not stepped")
        self.current = None
        if actor.done:
            self._actors.remove(actor)
            actor.thread.join()

    def _push(self, when: float, actor: Actor) -> None:
        heapq.heappush(self._heap, (when, next(self._order), actor))

    def _running(self) -> Actor:
        if self.current is None:
            raise RuntimeError("nobody has the turn")
        return self.current


class SteppedEvent:
    """`threading.Event` on the stepped clock."""

    def __init__(self, steps: Callable[[], Steps]) -> None:
        self._steps, self._is_set = steps, False

    def set(self) -> None:
        """Set it."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Sleep, and tell whether it is set."""
        if not self._is_set:
            self._steps().sleep(seconds)
        return self._is_set


class SteppedThread:
    """`threading.Thread` as an actor of the process that starts it."""

    def __init__(self, steps: Callable[[], Steps], target: Callable[[], None]) -> None:
        self._steps, self._target = steps, target

    def start(self) -> None:
        """Start it."""
        steps = self._steps()
        if steps.current is not None:
            steps.spawn(steps.current.process, self._target)

    def join(self) -> None:
        """What has been stopped does no more than look at that, so nobody waits for it."""
