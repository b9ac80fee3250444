"""Attributions to pictures, and to arrays for those who go on computing.

A picture is an indexed PNG. From an index and the picture's scale the value can be read back:

    value = (index - zero_index) * scale

    magnitude, positive:    zero_index is 0       index 0..255
    signed:                 zero_index is 128     index 1..255

Values beyond the scale are drawn at its end. The scale ends at the 99.5th percentile of |value| for magnitude and
signed, where single pixels would otherwise darken the rest, and at the largest value for positive. It is also written
into the PNG (text keys `heatmill.scale` and `heatmill.zero_index`), so that a picture on its own can be read.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from heatmill_workers.methods.contract import Picture, flattened
from heatmill_workers.outputs.colourmaps import palette

Map = NDArray[np.float32]

PERCENTILE = 99.5
# zlib's fastest level: 0.3-0.9 ms for 224 x 224; the default takes 0.9-1.1 ms and saves 2 % (noise) to 22 % (smooth).
COMPRESSION = 1
# Stored arrays reach up to between 2^14 and 2^15, half of float16's largest number.
LARGEST_EXPONENT = 15


@dataclass(frozen=True)
class Heatmap:
    """A picture and its scale."""

    png: bytes
    scale: float
    zero_index: int


@dataclass(frozen=True)
class EncodedArray:
    """A float16 .npy, and what to multiply it with to get the attribution."""

    npy: bytes
    factor: float


def render(attribution: Map, picture: Picture, size: tuple[int, int]) -> Heatmap:
    """The heatmap of one attribution.

    Args:
        attribution: (C, h, w).
        picture: How channels become one, and which colours.
        size: (height, width) of the picture; a coarser attribution is interpolated bilinearly.
    """
    values = _resized(flattened(attribution, picture), size)
    limit = _limit(values, picture)
    zero_index, steps = (128, 127) if picture == "signed" else (0, 255)
    scale = limit / steps
    # The quotient first: 127 / limit would overflow for values near float32's smallest.
    unit = np.clip(values / limit, -1, 1) if limit else np.zeros_like(values)
    indices = np.rint(unit * steps + zero_index).astype(np.uint8)
    image = Image.fromarray(indices)
    # putpalette makes it an indexed picture.
    image.putpalette(palette("diverging" if picture == "signed" else "sequential"))
    return Heatmap(_encode(image, scale, zero_index), scale, zero_index)


def read_values(png: bytes) -> Map:
    """The values in a heatmap's PNG, (H, W), to within half a step of its scale."""
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        indices = np.asarray(image, dtype=np.float32)
        values: Map = (indices - int(image.info["heatmill.zero_index"])) * np.float32(image.info["heatmill.scale"])
    return values


def encode_array(attribution: Map) -> EncodedArray:
    """An attribution as a float16 .npy of its own shape.

    Gradients of 1e-8 would vanish in float16 and large ones overflow. So what is stored is attribution / factor, the
    factor being the power of two that brings the largest |value| to between 2^14 and 2^15. Dividing is then exact, and
    eleven bits hold for values down to 2^-28 of the largest. An attribution of zeros has factor 1.
    """
    largest = float(np.abs(attribution).max(initial=0))
    factor = 2.0 ** (int(np.frexp(largest)[1]) - LARGEST_EXPONENT) if largest else 1.0
    file = BytesIO()
    np.save(file, (attribution.astype(np.float64) / factor).astype(np.float16), allow_pickle=False)
    return EncodedArray(file.getvalue(), factor)


def decode_array(array: EncodedArray) -> Map:
    """The attribution that `encode_array` stored."""
    stored: Map = np.load(BytesIO(array.npy), allow_pickle=False).astype(np.float32)
    return stored * np.float32(array.factor)


def _resized(values: Map, size: tuple[int, int]) -> Map:
    height, width = size
    if values.shape == size:
        return values
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def _limit(values: Map, picture: Picture) -> float:
    magnitudes = np.abs(values).ravel()
    largest = float(magnitudes.max(initial=0))
    if picture == "positive":
        return largest
    rank = min(int(len(magnitudes) * PERCENTILE / 100), len(magnitudes) - 1)
    # A map with a few bright pixels only has nothing at that percentile.
    return float(np.partition(magnitudes, rank)[rank]) or largest


def _encode(image: Image.Image, scale: float, zero_index: int) -> bytes:
    text = PngInfo()
    text.add_text("heatmill.scale", repr(scale))
    text.add_text("heatmill.zero_index", str(zero_index))
    file = BytesIO()
    image.save(file, "PNG", compress_level=COMPRESSION, pnginfo=text)
    return file.getvalue()
