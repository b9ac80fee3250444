"""Rows through the device in batches of one size: the fastest that was measured, halved when memory runs out.

Rows are whatever a method packs: images, or images x steps. Sizes are measured on the work itself, method by method,
and remembered beside the model: a few batches of the first size, then of half of it, and where that is not faster of
twice as many, and on while it gets faster. A device's limit is met once and not for every shard.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from heatmill.errors import ItemTooLargeForDevice

T = TypeVar("T")

# Two CPU cores, forward and backward, ms an image at 2, 8, 16: 57, 54, 56 (ResNet-18); 34, 34, 49 (EfficientNet-Lite0).
CPU_ROWS, MOST_CPU_ROWS = 8, 64
ACCELERATOR_ROWS, MOST_ACCELERATOR_ROWS = 64, 1024
CPU_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory")
# Of each size; the first does not count, since libraries prepare themselves for its shapes.
MEASURED_BATCHES = 5
# Another size is better only if it takes this much less time a row: measurements are not exact.
BETTER = 0.95


@dataclass
class _Search:
    """The search for one method's size: what is tried now, and what was the fastest so far."""

    start: int
    most: int
    open: bool
    size: int = field(init=False)
    fastest: int = 0
    pace: float = float("inf")
    smaller: bool = True
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = self.start

    def note(self, seconds: float) -> None:
        """Seconds of one full batch."""
        self.seconds.append(seconds)
        if len(self.seconds) == MEASURED_BATCHES:
            pace = min(self.seconds[1:]) / self.size
            self.seconds.clear()
            self._choose(pace)

    def settle(self, size: int) -> None:
        """It is this one."""
        self.size, self.open = size, False

    def _choose(self, pace: float) -> None:
        if pace < BETTER * self.pace:
            self.fastest, self.pace = self.size, pace
        elif self.smaller and self.fastest == self.start:
            self.smaller = False
        else:
            self.settle(self.fastest)
            return
        following = self.fastest // 2 if self.smaller else self.fastest * 2
        if 1 <= following <= self.most:
            self.size = following
        else:
            self.settle(self.fastest)


class BatchSizes:
    """How many rows of each method go together, for one model on one device.

    Args:
        device: Of the model.
        fixed: The size of all methods, where it is not to be measured; halved like any other.
    """

    def __init__(self, device: torch.device, fixed: int | None = None) -> None:
        cpu = device.type == "cpu"
        self._device = device
        self._fixed = fixed
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
        if not self._measures(method, rows):
            return compute()
        self._synchronize()
        started = time.perf_counter()
        result = compute()
        self._synchronize()
        with self._lock:
            if self._of(method).open and self._of(method).size == rows:
                self._of(method).note(time.perf_counter() - started)
        return result

    def _measures(self, method: str, rows: int) -> bool:
        with self._lock:
            return self._of(method).open and self._of(method).size == rows

    def _of(self, method: str) -> _Search:
        return self._searches.setdefault(method, _Search(self._start, self._most, open=self._fixed is None))

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
        result = _unless_out_of_memory(partial(sizes.timed, method, len(batch), partial(compute, batch)))
        if result is None:
            sizes.halve(method, len(batch))
            continue
        yield batch, result
        start = batch.stop


def _unless_out_of_memory(compute: Callable[[], T]) -> T | None:
    try:
        return compute()
    except torch.cuda.OutOfMemoryError:
        pass
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in CPU_OUT_OF_MEMORY):
            raise
    # Outside the except block the traceback has let go of the failed batch's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
