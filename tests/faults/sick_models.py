"""Factories of the test's classifier that fail on the machine of one worker; its models.toml names one of them."""

import errno

from torch import nn


def without_memory() -> nn.Module:
    """Memory ends while the model is built."""
    raise MemoryError


def without_room() -> nn.Module:
    """The disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


def with_a_lost_device() -> nn.Module:
    """As torch says it once a kernel has failed."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might")


def with_a_broken_library() -> nn.Module:
    """Something that nobody has foreseen, on this machine only."""
    raise ZeroDivisionError("a library is broken here")
