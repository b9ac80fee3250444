"""Image classifiers of transformers."""

from typing import Any

from torch import Tensor, nn


class Logits(nn.Module):
    """A transformers classifier as a module that maps images to logits."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K)."""
        logits: Tensor = self.inner(pixel_values=images).logits
        return logits
