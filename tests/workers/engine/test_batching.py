"""Rows in batches: order, halving, what is remembered."""

from collections.abc import Callable, Mapping

import pytest
import torch

from heatmill.errors import ItemTooLargeForDevice
from heatmill_workers.engine.batching import MEASURED_BATCHES, BatchSizes, in_batches

CPU = torch.device("cpu")


def device_that_holds(rows_at_most: int, error: Exception) -> Callable[[range], int]:
    def compute(rows: range) -> int:
        if len(rows) > rows_at_most:
            raise error
        return len(rows)

    return compute


class Clock:
    """A device whose batches take a given time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.tried: list[int] = []
        monkeypatch.setattr("heatmill_workers.engine.batching.time.perf_counter", lambda: self.now)

    def compute(self, rows: range) -> int:
        self.tried.append(len(rows))
        # The first of a size is slow.
        slow = 10 if self.tried.count(len(rows)) == 1 else 1
        self.now += slow * self.seconds.get(len(rows), 1.0)
        return len(rows)


@pytest.mark.parametrize(
    ("seconds_per_row", "fastest", "tried"),
    [
        ({8: 10, 4: 8, 2: 9}, 4, [8, 4, 2]),
        ({8: 10, 4: 8, 2: 7, 1: 6}, 1, [8, 4, 2, 1]),
        ({8: 10, 4: 11, 16: 8, 32: 7, 64: 7}, 32, [8, 4, 16, 32, 64]),
        ({8: 10, 4: 11, 16: 8, 32: 7, 64: 6}, 64, [8, 4, 16, 32, 64]),
        ({8: 10, 4: 10, 16: 10}, 8, [8, 4, 16]),
    ],
)
def test_the_fastest_size_is_found_and_kept(
    seconds_per_row: dict[int, float], fastest: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, {size: size * seconds for size, seconds in seconds_per_row.items()})
    sizes = BatchSizes(CPU)

    batches = list(in_batches(clock.compute, 2001, sizes, "path"))

    assert [row for rows, _ in batches for row in rows] == list(range(2001))
    assert list(dict.fromkeys(clock.tried[:-1])) == tried
    assert [clock.tried.count(size) for size in tried if size != fastest] == [MEASURED_BATCHES] * (len(tried) - 1)
    assert (sizes.get("path"), sizes.get("saliency")) == (fastest, 8)


def test_a_batch_that_is_not_full_says_nothing_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = Clock(monkeypatch, {8: 1, 4: 0.1}), BatchSizes(CPU)

    for _ in range(10):
        list(in_batches(clock.compute, 5, sizes, "path"))

    assert sizes.get("path") == 8


def test_memory_that_ends_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = Clock(monkeypatch, {8: 8, 4: 8, 16: 4}), BatchSizes(CPU)

    def compute(rows: range) -> int:
        if len(rows) > 16:
            raise MemoryError
        return clock.compute(rows)

    batches = list(in_batches(compute, 500, sizes, "path"))

    assert sum(len(rows) for rows, _ in batches) == 500
    assert sizes.get("path") == 16


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
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
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
