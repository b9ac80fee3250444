"""Rows through the device in batches of one size, halved when memory runs out.

Rows are whatever a method packs: images, or images x steps. The size that worked is remembered per method, beside the
model, so that a device's limit is met once and not for every shard.
"""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from heatmill.errors import ItemTooLargeForDevice

T = TypeVar("T")

# Two CPU cores, forward and backward, ms an image at 2, 8, 16: 57, 54, 56 (ResNet-18); 34, 34, 49 (EfficientNet-Lite0).
CPU_ROWS = 8
ACCELERATOR_ROWS = 64
CPU_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory")


class BatchSizes:
    """How many rows of each method fit, for one model on one device."""

    def __init__(self, device: torch.device, start: int | None = None) -> None:
        self._start = start or (CPU_ROWS if device.type == "cpu" else ACCELERATOR_ROWS)
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def get(self, method: str) -> int:
        """The size to try."""
        with self._lock:
            return self._sizes.get(method, self._start)

    def halve(self, method: str, size: int) -> int:
        """Note that `size` did not fit, and say what to try next.

        Raises:
            ItemTooLargeForDevice: One row did not fit.
        """
        if size == 1:
            raise ItemTooLargeForDevice(f"{method}: one image of this model's input size does not fit the device")
        with self._lock:
            # Another thread may have found a smaller one meanwhile.
            self._sizes[method] = min(size // 2, self._sizes.get(method, size))
            return self._sizes[method]


def in_batches(compute: Callable[[range], T], rows: int, sizes: BatchSizes, method: str) -> Iterator[tuple[range, T]]:
    """Run `compute` over all rows in order, and yield each batch's rows with its result.

    Raises:
        ItemTooLargeForDevice: One row alone does not fit.
    """
    start = 0
    while start < rows:
        batch = range(start, min(start + sizes.get(method), rows))
        result = _unless_out_of_memory(compute, batch)
        if result is None:
            sizes.halve(method, len(batch))
            continue
        yield batch, result
        start = batch.stop


def _unless_out_of_memory(compute: Callable[[range], T], batch: range) -> T | None:
    try:
        return compute(batch)
    except torch.cuda.OutOfMemoryError:
        pass
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in CPU_OUT_OF_MEMORY):
            raise
    # Outside the except block the traceback has let go of the failed batch's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
