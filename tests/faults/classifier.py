"""A tiny classifier that does what an image tells it to; the workers of these tests load it by models.toml.

The top left pixel of an image is its order: with full blue, red is the act and green its measure.
Weights are multiples of 1/8, so that gradients are exact and do not depend on how images are grouped into batches.
"""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

SIDE = 32
CLASSES = ("round", "square", "star")
ORDER = 255
NAP, KILL, HANG, HOARD, EXHAUST, FAIL = range(1, 7)
# A unit of the measure of `NAP`.
NAP_SECONDS = 0.01
# Left to the process before its memory is exhausted.
SPARE_BYTES = 2**28


class Obedient(nn.Module):
    """Convolution, ReLU, mean, linear; and whatever the images order."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, len(CLASSES))
        for parameter in self.parameters():
            parameter.data = parameter.data.mul(8).add(0.5).round().div(8)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, 3)."""
        for order in (images.detach()[:, :, 0, 0] * 255).round().int().tolist():
            obey(*order)
        logits: Tensor = self.head(self.convolution(images).relu().mean((2, 3)))
        return logits


def obey(act: int, measure: int, order: int) -> None:
    """Do what an image says."""
    if order == ORDER and act in ACTS:
        ACTS[act](measure)


def exhaust() -> None:
    """Take memory until the system gives no more; the limit is this process' own, and is lifted again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, hard))
    hoard = []
    try:
        while True:
            hoard.append(bytearray(SPARE_BYTES // 8))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def build() -> nn.Module:
    """The same weights every time."""
    torch.manual_seed(0)
    return Obedient()


def fail() -> None:
    """Have a bug."""
    raise ZeroDivisionError("as an operator's own code may")


ACTS: dict[int, Callable[[int], object]] = {
    NAP: lambda measure: time.sleep(measure * NAP_SECONDS),
    KILL: lambda _: os.kill(os.getpid(), signal.SIGKILL),
    HANG: lambda _: time.sleep(3600),
    # More than any machine has: torch says so before a byte is touched.
    HOARD: lambda _: torch.empty(2**60),
    EXHAUST: lambda _: exhaust(),
    FAIL: lambda _: fail(),
}
