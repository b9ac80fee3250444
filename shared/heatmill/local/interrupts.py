"""Ctrl-C and SIGTERM where an exception in an arbitrary place would do harm: they are noted, or raised once."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNWINDING_SECONDS = 1.0

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def noted() -> Iterator[list[int]]:
    """The numbers of the signals that came meanwhile; none of them raises."""
    numbers: list[int] = []
    with _handled(lambda number, frame: numbers.append(number)):
        yield numbers


@contextmanager
def raised_once() -> Iterator[None]:
    """A signal is a KeyboardInterrupt, also SIGTERM; another right after it must not disturb how that one unwinds.

    They do come so: `timeout` signals its child and then the group, and a terminal signals the group while a runner
    such as `uv run` passes the signal on.
    """
    deaf_until = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal deaf_until
        now = time.monotonic()
        if now >= deaf_until:
            deaf_until = now + UNWINDING_SECONDS
            raise KeyboardInterrupt

    with _handled(handle):
        yield


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    # Python delivers signals to the main thread alone. What is ignored stays so, as under nohup.
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if is_main}
    try:
        for number, known in before.items():
            if known not in (signal.SIG_IGN, None):
                signal.signal(number, handler)
        yield
    finally:
        for number, known in before.items():
            if known is not None:
                signal.signal(number, known)
