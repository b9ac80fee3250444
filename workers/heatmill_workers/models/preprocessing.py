"""A photo to the tensor that a model sees, as torchvision's presets make it."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatmill.images import Photo
from heatmill.models import Preprocessing

Box = tuple[float, float, float, float]

# Of a longer strip only the middle is resized: 1,000,000 x 50 pixels, made 256 high, would be 4 GB.
LONGEST_ASPECT = 16
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> tuple[Tensor, Box]:
    """Resize, crop the centre, normalise. Safe in threads.

    Args:
        image: RGB and upright, as `images.decode` returns it.
        preprocessing: The model's.

    Returns:
        (3, H, W) float32 on the CPU, and the region of the photo that it shows: left, top, right, bottom in the
        photo's pixels. The box reaches past the photo where the crop is larger than the resized photo; the model saw
        black there.
    """
    return preprocess_photo(Photo(image, image.size, 1), preprocessing)


def preprocess_photo(photo: Photo, preprocessing: Preprocessing) -> tuple[Tensor, Box]:
    """`preprocess` of a photo that may have been decoded to a fraction of its size; the region is in its whole size."""
    size, by = _trimmed(photo.size, preprocessing), photo.reduced_by
    x, y = (photo.size[0] - size[0]) // 2, (photo.size[1] - size[1]) // 2
    resized = photo.image.resize(
        _resized(size, preprocessing),
        RESAMPLING[preprocessing.interpolation],
        box=(x / by, y / by, (x + size[0]) / by, (y + size[1]) / by),
    )
    height, width = preprocessing.input_size
    # Python rounds halves to even, and so does torchvision's centre crop.
    left, top = _offset(resized.width, width), _offset(resized.height, height)
    cropped = resized.crop((left, top, left + width, top + height))
    across, down = size[0] / resized.width, size[1] / resized.height
    box = (x + left * across, y + top * down, x + (left + width) * across, y + (top + height) * down)
    return _normalised(cropped, preprocessing), box


def least_side(preprocessing: Preprocessing) -> int | None:
    """To which side a photo may be reduced while it is decoded: what is resized then is twice what is wanted.

    None where it is decoded whole.
    """
    resize = preprocessing.resize
    return None if not preprocessing.reduced_decoding else 2 * (max(resize) if isinstance(resize, tuple) else resize)


def _trimmed(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    longest = size[0] + size[1] if isinstance(preprocessing.resize, tuple) else LONGEST_ASPECT * min(size)
    return min(size[0], longest), min(size[1], longest)


def _resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    if isinstance(preprocessing.resize, tuple):
        height, width = preprocessing.resize
        return width, height
    short, long = min(size), max(size)
    longer = int(preprocessing.resize * long / short)
    return (preprocessing.resize, longer) if size[0] <= size[1] else (longer, preprocessing.resize)


def _offset(have: int, want: int) -> int:
    if want > have:
        # torchvision pads the smaller half first.
        return -((want - have) // 2)
    return round((have - want) / 2)


def _normalised(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    # In numpy: torch would start threads for each thread that decodes, which then spin on the cores of the model's own.
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy((pixels / np.float32(255) - mean) / std)
