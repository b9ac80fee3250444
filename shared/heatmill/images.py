"""Bytes to an RGB photo, by stated rules.

- Formats: JPEG, PNG, WebP, BMP, TIFF, GIF; of several frames the first.
- EXIF orientation is applied once; what is returned is upright.
- Grayscale is repeated into three channels; palettes are looked up; other colour spaces go through Pillow's plain
  conversion, without colour profiles (CMYK as well).
- 16-bit grayscale is divided by 257 and rounded, so that 65535 is 255. 32-bit and float pixels have no stated range
  and are refused.
- Transparency, in whatever form, is composited on white.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageMath, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from heatmill.errors import ImageTooLarge, ImageUnreadable
from heatmill.image_types import FORMATS

# What Pillow raises on damaged bytes. 390,000 files with flipped bytes gave OSError, ValueError, SyntaxError and, where
# warnings are errors, UserWarning; the others are in its issue tracker.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    UserWarning,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)

# EXIF's tag, and the values of it that swap width and height.
ORIENTATION = 0x0112
TURNED = frozenset({5, 6, 7, 8})

# Pillow's own pixel check warns through the process-wide warning filters, from any thread, before ours can run. Ours is
# made on every image that is opened here, before its pixels are decoded, and is an error.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Photo:
    """A photo, perhaps decoded to a fraction of its size.

    Args:
        image: RGB and upright; each of its pixels stands for a square of `reduced_by` pixels of the whole.
        size: Of the whole, width and height, upright.
        reduced_by: 1, 2, 4 or 8.
    """

    image: Image.Image
    size: tuple[int, int]
    reduced_by: int


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The photo as an upright RGB picture. Safe in threads.

    Raises:
        ImageUnreadable: Not an image of an accepted format, or damaged.
        ImageTooLarge: Over a limit, or over the memory at hand.
    """
    return decode_reduced(data, limits, max(limits.max_pixels, 1)).image


def decode_reduced(data: bytes, limits: ImageLimits, least_side: int) -> Photo:
    """The photo for a model that sees less of it. Safe in threads.

    A JPEG is decoded to 1/2, 1/4 or 1/8 of its size where no side becomes shorter than `least_side`: the mean of each
    square of pixels comes out of the transform itself, at a fraction of the time.

    Raises:
        ImageUnreadable: Not an image of an accepted format, or damaged.
        ImageTooLarge: Over a limit, or over the memory at hand.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"{len(data) / 1e6:.1f} MB; the limit is {limits.max_bytes / 1e6:g} MB")
    if not data:
        raise ImageUnreadable("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits)
            size, reduced_by = image.size, _reduce(image, least_side)
            image.load()
            if image.getexif().get(ORIENTATION, 1) in TURNED:
                size = size[::-1]
            return Photo(_to_rgb(_upright(image)), size, reduced_by)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except MemoryError as error:
        raise ImageTooLarge("decoding needs more memory than there is") from error
    except DAMAGE as error:
        raise ImageUnreadable(f"the image is damaged: {error}") from error


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageUnreadable(f"{width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{width} x {height} pixels; the limit is {limits.max_pixels / 1e6:g} megapixels")


def _reduce(image: Image.Image, least_side: int) -> int:
    """Tell the decoder by how much to reduce, where it can."""
    if isinstance(image, JpegImageFile):
        width, height = image.size
        shorter = min(width, height)
        image.draft(None, (width * least_side // shorter, height * least_side // shorter))
        return next(by for by in (1, 2, 4, 8) if -(-width // by) == image.width)
    return 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        # The pixels are sound; a camera's broken metadata is no reason to lose them.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in {"I", "F"}:
        raise ImageUnreadable("32-bit pixels have no stated range; 8 and 16 bit are read")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values, transparent = image.convert("I"), image.info.get("transparency")
    photo = _divided(values).convert("RGB")
    if transparent is not None:
        seen = ImageMath.lambda_eval(lambda of: of["convert"]((of["values"] != transparent) * 255, "L"), values=values)
        photo = Image.composite(photo, Image.new("RGB", photo.size, "white"), seen)
    return photo


def _divided(values: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255. What a point makes of an integer is cut off behind the point, and no value
    # comes within 0.5 / 257 of where floating point would cut off the wrong way.
    return values.point(lambda value: value * (1 / 257) + 128.5 / 257).convert("L")
