"""What an image is compared with: a photo that shows nothing. All in the model's normalised space."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from heatmill_workers.engine.hiding import blurred, plain
from heatmill_workers.models.loaded import LoadedModel

Baseline = Literal["mean", "black", "white", "blur"]
DESCRIPTION = "an image of the dataset's mean colour, black, white, or the photo itself, blurred"

# Of the image's side: nothing that a classifier knows is left, but the colours are where they were.
BLUR_SHARE = 4


def baseline_images(model: LoadedModel, images: Tensor, name: Baseline) -> Tensor:
    """Each image's baseline, (N, 3, H, W), on the images' device; a plain one takes no memory of its own.

    Args:
        model: Whose preprocessing says what black is.
        images: (N, 3, H, W).
        name: Which baseline.
    """
    if name == "blur":
        height, width = images.shape[2:]
        return blurred(images, max(height // BLUR_SHARE, 1), max(width // BLUR_SHARE, 1))
    levels = {"black": 0.0, "white": 1.0}
    colour = plain(levels[name], model.preprocessing) if name in levels else torch.zeros(1, 3, 1, 1)
    return colour.to(images).expand_as(images)


def background(model: LoadedModel, images: Tensor, names: Sequence[Baseline]) -> Tensor:
    """Each image's background set, (B, N, 3, H, W)."""
    return torch.stack([baseline_images(model, images, name) for name in names])
