"""A classifier that is ready to explain."""

from dataclasses import dataclass

import torch
from torch import nn

from heatmill.models import Preprocessing
from heatmill_workers.engine.batching import BatchSizes
from heatmill_workers.engine.spatial import Cut


@dataclass(frozen=True)
class Built:
    """What a loader hands back: on the CPU, weights in place, as the loader's library made it."""

    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A classifier in eval mode, parameters frozen, channels_last; shared between threads and never changed.

    Args:
        module: (N, 3, H, W) float32 to logits (N, K).
        digest: sha256 of the weights, as loaded.
        labels: K class names.
        cut: Its last spatial map; None where it has none.
        opaque: It is compiled; only logits and their gradients can be had.
        batch_sizes: What has been found to fit the device.
    """

    name: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    digest: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    cut: Cut | None
    opaque: bool
    batch_sizes: BatchSizes

    @property
    def supports(self) -> frozenset[str]:
        """The capabilities that methods may need."""
        found = {"spatial layer": self.cut is not None, "operations": not self.opaque}
        return frozenset(name for name, has in found.items() if has)

    @property
    def nbytes(self) -> int:
        """Memory of parameters and buffers."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return sum(tensor.nbytes for tensor in tensors)
