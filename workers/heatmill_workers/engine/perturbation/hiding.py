"""What stands in for the parts of an image that are hidden. All in the model's normalised space."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from heatmill.catalogue.models import Preprocessing


def solid_colour(level: float, preprocessing: Preprocessing) -> Tensor:
    """A grey, (1, 3, 1, 1); 0 is black and 1 is white."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (level - mean) / std


def segment_means(image: Tensor, segments: NDArray[np.int64]) -> Tensor:
    """Each segment in its mean colour, (3, H, W); on the CPU, where sums have one order.

    Args:
        image: (3, H, W) on the CPU.
        segments: (H, W), from 0 up.
    """
    labels = segments.ravel()
    sizes = np.bincount(labels)
    means = [np.bincount(labels, weights=channel.ravel()) / sizes for channel in image.numpy()]
    return torch.from_numpy(np.stack(means)[:, segments].astype(np.float32))


def blurred(images: Tensor, height: int, width: int) -> Tensor:
    """Means over a box around each pixel, (N, 3, H, W), as OpenCV's `blur` takes them.

    At the border the image is mirrored without repeating its edge.

    Args:
        images: (N, 3, H, W).
        height: Of the box, at most H.
        width: Of the box, at most W.
    """
    # A product with a matrix for each axis: the means of H + W pixels instead of H x W.
    down, across = (_box(*axis).to(images) for axis in ((images.shape[2], height), (images.shape[3], width)))
    return down @ images @ across.T


@lru_cache(maxsize=16)
def _box(length: int, box: int) -> Tensor:
    """What each pixel of a line has in each mean over a box around one, (length, length)."""
    edges = (box // 2, box - 1 - box // 2)
    of_each = functional.pad(torch.eye(length).unsqueeze(0), edges, mode="reflect")
    return functional.avg_pool1d(of_each, box, stride=1)[0].T.contiguous()
