"""Which exceptions are the machine's fault: its device, its disk, its memory. No image and no model has caused those.

Libraries report them in many ways, and code in between wraps them, so the whole chain of causes counts.
"""

import errno
from collections.abc import Iterator

import torch

from heatmill.errors import DeviceUnusable, DiskFull, MachineError, MemoryExhausted, TransientError
from heatmill_workers.engine.batching import is_out_of_memory

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_MEMORY = frozenset({errno.ENOMEM})
# Of libraries that report the system's error in words: torch's file writer, SQLite, Rust.
FULL_DISK_WORDS = ("no space left on device", "disk quota exceeded", "database or disk is full")
# As torch says it. After most of them the device's context is lost, and every further call fails.
DEVICE_WORDS = (
    "cuda error",
    "cudnn error",
    "cublas error",
    "cudnn_status_",
    "cublas_status_",
    "cufft error",
    "cusolver error",
    "nccl error",
    "hip error",
    "no nvidia driver",
    "no cuda gpus are available",
    "no cuda-capable device",
    "not compiled with cuda enabled",
    "nvidia driver on your system is too old",
    "cuda driver initialization failed",
    "cuda unknown error",
    "cuda-capable device(s) is/are busy",
    "device-side assert",
    "illegal memory access",
    "uncorrectable ecc error",
    "attempting to deserialize object on a cuda device",
)
ACCELERATOR_ERROR: type[BaseException] = getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError)


def machine_fault(error: BaseException) -> MachineError | None:
    """The fault of the machine that an error tells of; None where it tells of none.

    An error of memory counts, which one image may have caused: ask only where none is at work.
    """
    for each in _chain(error):
        if isinstance(each, MachineError):
            return each
        if (fault := device_fault(each) or _other_fault(each)) is not None:
            return fault
    return None


def raise_machine_fault(error: BaseException) -> None:
    """Go on if an error is the model's, or anybody's but the machine's.

    Raises:
        MachineError: It is the machine's.
    """
    if (fault := machine_fault(error)) is not None:
        raise fault from error


def raise_lasting_fault(error: BaseException) -> None:
    """As `raise_machine_fault`, where an image is at work: that memory does not suffice may be its own fault.

    Raises:
        MachineError: It is the machine's.
        TransientError: It is nobody's.
    """
    if isinstance(error, TransientError):
        raise error
    fault = machine_fault(error)
    if fault is not None and not isinstance(fault, MemoryExhausted):
        raise fault from error


def device_fault(error: BaseException) -> DeviceUnusable | None:
    """The fault of a device that one error tells of, by itself; memory that does not suffice is none."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or not isinstance(error, (RuntimeError, AssertionError)):
        return None
    words = str(error).lower()
    if "out of memory" in words:
        return None
    if isinstance(error, ACCELERATOR_ERROR) or any(known in words for known in DEVICE_WORDS):
        return DeviceUnusable(f"the device failed: {_in_words(error)}")
    return None


def check_device(device: torch.device) -> None:
    """Wait for the device. A context that was lost fails here, whoever has seen and hidden the first error.

    Raises:
        DeviceUnusable: It computes nothing any more.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnusable(f"the device {device} failed: {_in_words(error)}") from error


def _other_fault(error: BaseException) -> MachineError | None:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DiskFull(f"a disk of this machine is full: {_in_words(error)}")
    if isinstance(error, Exception) and any(known in str(error).lower() for known in FULL_DISK_WORDS):
        return DiskFull(f"a disk of this machine is full: {_in_words(error)}")
    is_memory = isinstance(error, OSError) and error.errno in NO_MEMORY
    if is_memory or (isinstance(error, Exception) and is_out_of_memory(error)):
        return MemoryExhausted(f"this machine's memory does not suffice: {_in_words(error)}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, those too that were being handled when it was raised."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        # `raise ... from None` says that the one has nothing to do with the other.
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _in_words(error: BaseException) -> str:
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
