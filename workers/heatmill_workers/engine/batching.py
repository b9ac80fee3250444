"""Rows through the device in batches of one size: the fastest that was measured, halved when memory runs out.

Rows are whatever a method packs: images, or images x steps. Sizes are measured on the work itself, method by method,
and remembered beside the model: a few batches of the first size, then of half of it, and where that is not faster of
twice as many, and on while it gets faster. A device's limit is met once and not for every shard.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch

from heatmill.errors import ItemTooLargeForDevice

T = TypeVar("T")

# Two CPU cores, forward and backward, ms an image at 2, 8, 16: 57, 54, 56 (ResNet-18); 34, 34, 49 (EfficientNet-Lite0).
CPU_ROWS, MOST_CPU_ROWS = 8, 64
ACCELERATOR_ROWS, MOST_ACCELERATOR_ROWS = 64, 1024
# As torch's errors say it that have no class of their own.
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "bad_alloc", "out of memory", "STATUS_ALLOC_FAILED")
# Of each size; the first does not count, since libraries prepare themselves for its shapes.
MEASURED_BATCHES = 5
# Another size is better only if it takes this much less time a row: measurements are not exact.
BETTER = 0.95


class _Search:
    """The search for one method's size.

    Args:
        start: The first size.
        most: The largest.
        settled: The first size is the method's own; nothing is measured.

    Attributes:
        size: What is tried now, or what it is when the search is over.
    """

    def __init__(self, start: int, most: int, *, settled: bool) -> None:
        self.size = start
        self._start, self._most, self._settled = start, most, settled
        self._fastest, self._pace = start, float("inf")
        self._grows = False
        self._seconds: list[float] = []

    def measures(self, rows: int) -> bool:
        """Whether a batch of so many rows is to be timed: a full one, while the search goes on."""
        return not self._settled and rows == self.size

    def note(self, rows: int, seconds: float) -> None:
        """What such a batch took. Another thread's may have ended the search meanwhile."""
        if not self.measures(rows):
            return
        self._seconds.append(seconds)
        if len(self._seconds) == MEASURED_BATCHES:
            pace = min(self._seconds[1:]) / self.size
            self._seconds.clear()
            self._choose(pace)

    def settle(self, size: int) -> None:
        """It is this one."""
        self.size, self._settled = size, True

    def _choose(self, pace: float) -> None:
        """Halve while that is faster; where the first half was not, double."""
        if pace < BETTER * self._pace:
            self._fastest, self._pace = self.size, pace
        elif not self._grows and self._fastest == self._start:
            self._grows = True
        else:
            self.settle(self._fastest)
            return
        following = self._fastest * 2 if self._grows else self._fastest // 2
        if 1 <= following <= self._most:
            self.size = following
        else:
            self.settle(self._fastest)


class BatchSizes:
    """How many rows of each method go together, for one model on one device.

    Args:
        device: Of the model.
        fixed: The size of all methods, where it is not to be measured; halved like any other.
    """

    def __init__(self, device: torch.device, fixed: int | None = None) -> None:
        cpu = device.type == "cpu"
        self._device = device
        self._settled = fixed is not None
        self._start = fixed or (CPU_ROWS if cpu else ACCELERATOR_ROWS)
        self._most = MOST_CPU_ROWS if cpu else MOST_ACCELERATOR_ROWS
        self._searches: dict[str, _Search] = {}
        self._lock = threading.Lock()

    def get(self, method: str) -> int:
        """The size to try."""
        with self._lock:
            return self._of(method).size

    def halve(self, method: str, size: int) -> int:
        """Note that `size` did not fit, and say what to try next.

        Raises:
            ItemTooLargeForDevice: One row did not fit.
        """
        if size == 1:
            raise ItemTooLargeForDevice(f"{method}: one image of this model's input size does not fit the device")
        with self._lock:
            # Another thread may have found a smaller one meanwhile.
            self._of(method).settle(min(size // 2, self._of(method).size))
            return self._of(method).size

    def timed(self, method: str, rows: int, compute: Callable[[], T]) -> T:
        """Compute a batch of so many rows, and take its time while the method's size is not settled."""
        with self._lock:
            is_measured = self._of(method).measures(rows)
        if not is_measured:
            return compute()
        self._synchronize()
        started = time.perf_counter()
        result = compute()
        self._synchronize()
        with self._lock:
            self._of(method).note(rows, time.perf_counter() - started)
        return result

    def _of(self, method: str) -> _Search:
        return self._searches.setdefault(method, _Search(self._start, self._most, settled=self._settled))

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def in_batches(compute: Callable[[range], T], rows: int, sizes: BatchSizes, method: str) -> Iterator[tuple[range, T]]:
    """Run `compute` over all rows in order, and yield each batch's rows with its result.

    Raises:
        ItemTooLargeForDevice: One row alone does not fit.
    """
    start = 0
    while start < rows:
        batch = range(start, min(start + sizes.get(method), rows))
        result = unless_out_of_memory(partial(sizes.timed, method, len(batch), partial(compute, batch)))
        if result is None:
            sizes.halve(method, len(batch))
            continue
        yield batch, result
        start = batch.stop


def unless_out_of_memory(compute: Callable[[], T]) -> T | None:
    """What `compute` returns; None where the device has not enough memory for it."""
    try:
        return compute()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except block the traceback has let go of the failed batch's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has ended, which torch has several ways to say."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
