"""Which exceptions are the machine's fault, also where other code has wrapped them."""

import errno
import sqlite3

import pytest
import torch

from heatmill.errors import (
    DeviceUnusable,
    DiskFull,
    ItemTooLargeForDevice,
    MachineError,
    MemoryExhausted,
    ModelUnavailable,
    WeightsUnavailable,
)
from heatmill_workers.engine.machine_faults import device_fault, machine_fault, raise_machine_fault

DEVICE = [
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    AssertionError("Torch not compiled with CUDA enabled"),
    RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
]
DISK = [
    OSError(errno.ENOSPC, "No space left on device", "/models/net.pth"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed: No space left on device"),
    sqlite3.OperationalError("database or disk is full"),
]
MEMORY = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4611686018427387904 bytes"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
]
OTHERS = [
    ValueError("the model's output is no tensor"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x4 and 3x4)"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "/models/net.pth"),
    AssertionError("wrong number of channels"),
    ItemTooLargeForDevice("saliency: one image of this model's input size does not fit the device"),
]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(error, DeviceUnusable) for error in DEVICE]
    + [(error, DiskFull) for error in DISK]
    + [(error, MemoryExhausted) for error in MEMORY],
    ids=lambda value: str(value)[:40],
)
def test_a_fault_of_the_machine_is_recognised_and_keeps_the_library_s_words(
    error: Exception, kind: type[MachineError]
) -> None:
    fault = machine_fault(error)

    assert type(fault) is kind
    assert type(error).__name__ in str(fault)
    assert "\n" not in str(fault)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_what_a_model_or_an_image_has_caused_is_no_fault_of_the_machine(error: Exception) -> None:
    assert machine_fault(error) is None
    raise_machine_fault(error)


def test_the_cause_counts_whatever_was_made_of_it() -> None:
    wrapped = ModelUnavailable("model birds: m:make cannot be called")
    wrapped.__cause__ = DISK[0]
    with pytest.raises(DiskFull):
        raise_machine_fault(wrapped)


def test_a_fault_that_has_been_named_keeps_its_name() -> None:
    known = WeightsUnavailable("model birds: there is no file")
    assert machine_fault(known) is known


def test_memory_that_does_not_suffice_is_no_fault_of_the_device() -> None:
    assert [device_fault(error) for error in MEMORY] == [None] * len(MEMORY)
