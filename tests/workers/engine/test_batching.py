"""Rows in batches: order, halving, what is remembered."""

from collections.abc import Callable

import pytest
import torch

from heatmill.errors import ItemTooLargeForDevice
from heatmill_workers.engine.batching import BatchSizes, in_batches

CPU = torch.device("cpu")


def device_that_holds(rows_at_most: int, error: Exception) -> Callable[[range], int]:
    def compute(rows: range) -> int:
        if len(rows) > rows_at_most:
            raise error
        return len(rows)

    return compute


def test_every_row_comes_once_and_in_order() -> None:
    batches = list(in_batches(list, 19, BatchSizes(CPU, 8), "saliency"))

    assert [len(rows) for rows, _ in batches] == [8, 8, 3]
    assert [row for _, values in batches for row in values] == list(range(19))


def test_no_rows_are_no_batches() -> None:
    assert list(in_batches(list, 0, BatchSizes(CPU), "saliency")) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_loses_no_row(error: Exception) -> None:
    batches = list(in_batches(device_that_holds(5, error), 19, BatchSizes(CPU, 16), "saliency"))

    assert [rows for rows, _ in batches] == [range(4), range(4, 8), range(8, 12), range(12, 16), range(16, 19)]


def test_a_size_that_worked_is_remembered_for_its_method() -> None:
    sizes = BatchSizes(CPU, 16)
    list(in_batches(device_that_holds(5, MemoryError()), 19, sizes, "integrated_gradients"))

    assert (sizes.get("integrated_gradients"), sizes.get("grad_cam")) == (4, 16)


def test_one_row_that_does_not_fit_is_too_large() -> None:
    with pytest.raises(ItemTooLargeForDevice, match="saliency"):
        list(in_batches(device_that_holds(0, MemoryError()), 4, BatchSizes(CPU), "saliency"))


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        list(in_batches(device_that_holds(0, RuntimeError("shape")), 4, BatchSizes(CPU), "saliency"))


def test_a_size_that_another_thread_found_is_kept() -> None:
    sizes = BatchSizes(CPU, 16)
    sizes.halve("saliency", 4)

    assert sizes.halve("saliency", 16) == 2
