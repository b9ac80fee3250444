"""A photo to the tensor that a model sees, as torchvision's presets, timm and transformers make it."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatmill.catalogue.models import Interpolation, Preprocessing
from heatmill.images import Box, Photo

# Of a longer strip only the middle is resized: 1,000,000 x 50 pixels, made 256 high, would be 4 GB.
LONGEST_ASPECT = 16
RESAMPLING: Mapping[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> tuple[Tensor, Box]:
    """Resize, crop the centre, normalise. Safe in threads.

    Args:
        image: RGB and upright, as `images.decode` returns it.
        preprocessing: The model's.

    Returns:
        (3, H, W) float32 on the CPU, channels in the model's order, and the region of the photo that it shows: left,
        top, right, bottom in the photo's pixels. The box reaches past the photo where the crop is larger than the
        resized photo; the model saw black there.
    """
    return preprocess_photo(Photo(image, image.size, 1), preprocessing)


def preprocess_photo(photo: Photo, preprocessing: Preprocessing) -> tuple[Tensor, Box]:
    """`preprocess` of a photo that may have been decoded to a fraction of its size; the region is in its whole size."""
    size = _trimmed(photo.size, preprocessing)
    x, y = (photo.size[0] - size[0]) // 2, (photo.size[1] - size[1]) // 2
    resized = photo.image.resize(
        _resized(size, preprocessing),
        RESAMPLING[preprocessing.interpolation],
        box=photo.within((x, y, x + size[0], y + size[1])),
    )
    height, width = preprocessing.input_size
    rounding = preprocessing.crop_rounding
    left, top = _offset(resized.width, width, rounding), _offset(resized.height, height, rounding)
    cropped = resized.crop((left, top, left + width, top + height))
    across, down = size[0] / resized.width, size[1] / resized.height
    box = (x + left * across, y + top * down, x + (left + width) * across, y + (top + height) * down)
    return _normalised(cropped, preprocessing), box


def least_side(preprocessing: Preprocessing) -> int | None:
    """To which side a photo may be reduced while it is decoded: what is resized then is twice what is wanted.

    None where it is decoded whole, as where single pixels are picked: the decoder would put means in their place.
    """
    if not preprocessing.reduced_decoding or preprocessing.interpolation == "nearest":
        return None
    resize = preprocessing.resize
    return 2 * (max(resize) if isinstance(resize, tuple) else resize)


def _trimmed(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    stretched = isinstance(preprocessing.resize, tuple) and preprocessing.fit == "stretch"
    longest = size[0] + size[1] if stretched else LONGEST_ASPECT * min(size)
    return min(size[0], longest), min(size[1], longest)


def _resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    if isinstance(preprocessing.resize, tuple):
        height, width = preprocessing.resize
        if preprocessing.fit == "stretch":
            return width, height
        ratio = min(size[0] / width, size[1] / height)
        return round(size[0] / ratio), round(size[1] / ratio)
    short, long = min(size), max(size)
    longer = int(preprocessing.resize * long / short)
    return (preprocessing.resize, longer) if size[0] <= size[1] else (longer, preprocessing.resize)


def _offset(have: int, want: int, rounding: str) -> int:
    if want > have:
        # torchvision pads the smaller half first; transformers' Pillow backend does not, and is refused.
        return -((want - have) // 2)
    # Python rounds halves to even, and so does torchvision's centre crop.
    return round((have - want) / 2) if rounding == "even" else (have - want) // 2


def _normalised(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    # In numpy: torch would start threads for each thread that decodes, which then spin on the cores of the model's own.
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    colours = np.asarray(image)[:, :, ::-1] if preprocessing.channel_order == "BGR" else np.asarray(image)
    pixels = np.ascontiguousarray(colours.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy((pixels / np.float32(255) - mean) / std)
