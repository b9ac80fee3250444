"""A tiny classifier that does what an image tells it to; the workers of these tests load it by models.toml.

The top left pixel of an image is its order: with full blue, red is the act and green its measure.
Weights are multiples of 1/8, so that gradients are exact and do not depend on how images are grouped into batches.
"""

import os
import signal
import time

import torch
from torch import Tensor, nn

SIDE = 32
CLASSES = ("round", "square", "star")
ORDER = 255
NAP, KILL, HANG, HOARD = range(1, 5)
# A unit of the measure of `NAP`.
NAP_SECONDS = 0.01


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
    if order != ORDER:
        return
    if act == NAP:
        time.sleep(measure * NAP_SECONDS)
    if act == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if act == HANG:
        time.sleep(3600)
    if act == HOARD:
        # More than any machine has: torch says so before a byte is touched.
        torch.empty(2**60)


def build() -> nn.Module:
    """The same weights every time."""
    torch.manual_seed(0)
    return Obedient()
