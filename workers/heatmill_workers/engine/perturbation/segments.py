"""An image cut into regions, from 0 up.

Quickshift: Vedaldi, Soatto (2008). SLIC: Achanta et al. (2012). Both by scikit-image, on the photo as the model
sees it.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import quickshift, slic
from torch import Tensor

from heatmill.catalogue.models import Preprocessing

Segmentation = Literal["quickshift", "slic", "grid"]
# What lime_image asks of quickshift.
KERNEL_SIZE, MAX_DISTANCE, RATIO = 4, 200, 0.2


def as_photos(images: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What normalised images show, (N, H, W, 3), in RGB.

    Args:
        images: (N, 3, H, W) float32, as `preprocess` makes them.
        preprocessing: The model's.
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = (images.cpu() * std + mean) * 255
    colours = pixels.flip(1) if preprocessing.channel_order == "BGR" else pixels
    photos: NDArray[np.uint8] = colours.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return photos


def segment_all(photos: NDArray[np.uint8], how: Segmentation, count: int, seed: int) -> list[NDArray[np.int64]]:
    """`segment` of each photo, on as many cores as torch has: each takes one, and lets go of Python's lock."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(lambda photo: segment(photo, how, count, seed), photos))


def segment(photo: NDArray[np.uint8], how: Segmentation, count: int, seed: int) -> NDArray[np.int64]:
    """Each pixel's segment, (H, W), numbered without gaps.

    Args:
        photo: (H, W, 3).
        how: Quickshift finds its own number of segments; SLIC comes near `count`; a grid as near as it can.
        count: Segments wanted, of SLIC and the grid.
        seed: Of quickshift, which breaks ties by chance.
    """
    if how == "grid":
        return _grid(photo.shape[0], photo.shape[1], count)
    if how == "slic":
        found = slic(photo, n_segments=count, start_label=0)
    else:
        found = quickshift(photo, kernel_size=KERNEL_SIZE, max_dist=MAX_DISTANCE, ratio=RATIO, rng=seed)
    return np.unique(found, return_inverse=True)[1].reshape(photo.shape[:2]).astype(np.int64)


def _grid(height: int, width: int, count: int) -> NDArray[np.int64]:
    """Rectangles that are nearly squares of one size; at most as many as there are pixels."""
    rows = min(max(round((count * height / width) ** 0.5), 1), height)
    columns = min(max(round(count / rows), 1), width)
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    numbers: NDArray[np.int64] = (row[:, None] * columns + column[None, :]).astype(np.int64)
    return numbers
