"""The limit: the passes that a method really needs, at the pace of a bare pass of the model and nothing around it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from heatmill_workers.engine.autograd import input_gradients
from heatmill_workers.engine.loaded_model import LoadedModel

SIZES = (1, 2, 4, 8, 16)
REPEATS = 3


@dataclass(frozen=True)
class Pace:
    """The batch size at which a model is fastest, and what runs one batch."""

    size: int
    run: Callable[[], object]

    def seconds(self) -> float:
        """One image's share of one batch, now."""
        started = time.perf_counter()
        self.run()
        return (time.perf_counter() - started) / self.size


@dataclass(frozen=True)
class Bare:
    """A model's bare passes: forward, and forward with the backward pass to the image."""

    forward: Pace
    both: Pace


def bare(model: LoadedModel, image: Tensor) -> Bare:
    """The fastest batch size of each pass, found by trying them in turn."""

    def forward(batch: Tensor) -> object:
        with torch.no_grad():
            return model.module(batch)

    def both(batch: Tensor) -> object:
        return input_gradients(model.module, batch, torch.zeros(len(batch), dtype=torch.int64, device=model.device))

    return Bare(_fastest(forward, model, image), _fastest(both, model, image))


def _fastest(compute: Callable[[Tensor], object], model: LoadedModel, image: Tensor) -> Pace:
    paces = [Pace(size, _bound(compute, _batch(model, image, size))) for size in SIZES]
    for pace in paces:
        pace.run()
    taken = {pace.size: [pace.seconds() for _ in range(REPEATS)] for pace in paces}
    return min(paces, key=lambda pace: min(taken[pace.size]))


def _batch(model: LoadedModel, image: Tensor, size: int) -> Tensor:
    return image.expand(size, -1, -1, -1).to(model.device, memory_format=torch.channels_last, copy=True)


def _bound(compute: Callable[[Tensor], object], batch: Tensor) -> Callable[[], object]:
    def run() -> object:
        found = compute(batch)
        if batch.is_cuda:
            torch.cuda.synchronize()
        return found

    return run
