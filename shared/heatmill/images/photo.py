"""A photo that was read, and what reading may cost."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from heatmill.images.overlay import Box

JpegDecoder = Callable[[bytes, Image.Image], Image.Image]
"""Decodes a JPEG's bytes to the mode and the size of an opened image; raises `JpegWarning` for a damaged stream."""


class JpegWarning(Exception):
    """The stream is damaged, but shows something: what the decoder says of it."""


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost.

    Args:
        max_bytes: Of the file.
        max_pixels: That are decoded: a JPEG that is decoded to 1/8 of its size may have 64 times as many.
    """

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Photo:
    """A photo, perhaps decoded to a fraction of its size.

    Args:
        image: RGB (sRGB) and upright; each of its pixels stands for a square of `reduced_by` pixels of the whole.
            Those of one column and one row may reach beyond the whole, on any side.
        size: Of the whole, width and height, upright.
        reduced_by: 1, 2, 4 or 8.
        format: Of the file: JPEG, PNG, WEBP, BMP, TIFF, GIF, AVIF or HEIF.
        notes: What of the file was left out or changed beyond its plain decoding, a sentence each.
        before: By how many pixels of the whole `image` begins left of it and above it, each less than `reduced_by`.
    """

    image: Image.Image
    size: tuple[int, int]
    reduced_by: int = 1
    format: str = ""
    notes: tuple[str, ...] = ()
    before: tuple[int, int] = (0, 0)

    def within(self, box: Box) -> Box:
        """Where in `image` a region of the whole lies: left, top, right, bottom, of the whole and of `image`."""
        (left, top, right, bottom), (x, y), by = box, self.before, self.reduced_by
        return (left + x) / by, (top + y) / by, (right + x) / by, (bottom + y) / by
