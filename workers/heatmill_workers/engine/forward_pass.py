"""One forward pass with the graph above it."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from heatmill_workers.engine.autograd import gradients, select

Origin = Literal["image", "map"]


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A pass of some images.

    Args:
        images: (N, 3, H, W), as they were given.
        logits: (N, K), with a graph down to the origins.
        origins: Where gradients can be taken: the images as a leaf, the model's last spatial map (N, C, h, w).
    """

    images: Tensor
    logits: Tensor
    origins: dict[Origin, Tensor]

    def gradients(self, targets: Tensor, of: Origin) -> Tensor:
        """Gradient of each image's target logit at an origin, in its shape. Rows do not mix, as logits do not."""
        chosen = select(self.logits, targets).sum()
        (found,) = gradients(chosen, [self.origins[of]], keep=True)
        return found

    def covers(self, images: Tensor, origin: Origin) -> bool:
        """Whether it is a pass of these very images, and its graph reaches the origin."""
        same = self.images.data_ptr() == images.data_ptr() and self.images.shape == images.shape
        return same and origin in self.origins
