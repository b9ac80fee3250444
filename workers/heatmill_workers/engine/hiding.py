"""What stands in for the parts of an image that are hidden. All in the model's normalised space."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from heatmill.models import Preprocessing


def plain(level: float, preprocessing: Preprocessing) -> Tensor:
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
    # One axis after the other is the same and takes H + W steps a pixel instead of H x W.
    down = functional.pad(images, (0, 0, height // 2, height - 1 - height // 2), mode="reflect")
    rows = functional.avg_pool2d(down, (height, 1), stride=1)
    across = functional.pad(rows, (width // 2, width - 1 - width // 2, 0, 0), mode="reflect")
    return functional.avg_pool2d(across, (1, width), stride=1)
