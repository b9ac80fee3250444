"""Overlap: work that runs ahead of the device and behind it, with bounds on how much lies in between."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


def groups(entries: Iterable[A], size: int) -> Iterator[tuple[A, ...]]:
    """Entries in runs of `size`; the last may be shorter."""
    remaining = iter(entries)
    while group := tuple(islice(remaining, size)):
        yield group


def prefetch(
    pool: Executor, prepare: Callable[[A], B], grouped: Iterable[Sequence[A]], depth: int
) -> Iterator[list[B]]:
    """Each group prepared, while up to `depth` further groups are being prepared.

    With depth 0 nothing runs ahead: a group's preparation starts when the one before it has been dealt with.
    """
    waiting: deque[list[Future[B]]] = deque()
    for group in grouped:
        waiting.append([pool.submit(prepare, entry) for entry in group])
        if len(waiting) > depth:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


class BoundedWriter(Generic[A, B]):
    """Groups on their way to storage, at most `depth` of them.

    `submit` hands over a group and gives back all groups that have arrived; it waits where too much is on its way.
    """

    def __init__(self, pool: Executor, store: Callable[[A], B], depth: int) -> None:
        self._pool, self._store, self._depth = pool, store, depth
        self._waiting: deque[list[Future[B]]] = deque()

    def submit(self, group: Iterable[A]) -> list[B]:
        """Start storing a group."""
        self._waiting.append([self._pool.submit(self._store, entry) for entry in group])
        return self._arrived(self._depth)

    def finish(self) -> list[B]:
        """Wait for everything."""
        return self._arrived(0)

    def _arrived(self, depth: int) -> list[B]:
        arrived: list[B] = []
        while len(self._waiting) > depth or (self._waiting and all(future.done() for future in self._waiting[0])):
            arrived += [future.result() for future in self._waiting.popleft()]
        return arrived
