"""Read many small objects several at a time, in order, and hold few of them: the store's answers take their time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

READERS = 16
# Answers that may wait for their turn, beside those that are being read.
WAITING = 16


def read_ahead(read: Callable[[A], B], names: Iterable[A]) -> Iterator[B]:
    """What is read of each name, in order; `names` may be endless."""
    with ThreadPoolExecutor(READERS) as pool:
        begun: deque[Future[B]] = deque()
        for name in names:
            begun.append(pool.submit(read, name))
            if len(begun) >= READERS + WAITING:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
