"""A heatmap laid over the part of the photo that the model saw."""

import io
import math

from PIL import Image, ImageOps

from heatmill.errors import ImageTooLarge, ImageUnreadable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
Box = tuple[float, float, float, float]


def overlay(photo: Image.Image, heatmap: Image.Image, box: Box, alpha: float, size: int) -> Image.Image:
    """Blend a heatmap over a photo's crop.

    Args:
        photo: Upright, as `open_photo` gives it.
        heatmap: As stored, an indexed picture.
        box: Left, top, right, bottom of the photo that the model saw; may reach beyond the photo, which is then
            continued in black.
        alpha: 0 shows the photo only, 1 the heatmap only.
        size: Longer side of the answer in pixels; the shape is the heatmap's.
    """
    shape = scaled(heatmap.size, size)
    left, top = math.floor(box[0]), math.floor(box[1])
    crop = photo.convert("RGB").crop((left, top, math.ceil(box[2]), math.ceil(box[3])))
    exact = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    seen = crop.resize(shape, Image.Resampling.BICUBIC, box=exact)
    return Image.blend(seen, resized(heatmap, size), alpha)


def resized(heatmap: Image.Image, size: int) -> Image.Image:
    """The heatmap in its colours, `size` pixels on its longer side."""
    return heatmap.convert("RGB").resize(scaled(heatmap.size, size), Image.Resampling.BICUBIC)


def scaled(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height with the same ratio, the longer one `size`."""
    longer = max(shape)
    return max(1, round(shape[0] * size / longer)), max(1, round(shape[1] * size / longer))


def open_photo(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a photo and turn it upright.

    Raises:
        ImageUnreadable: Not an image of an accepted format, or damaged.
        ImageTooLarge: More pixels than the limit; they are not decoded.
    """
    try:
        photo = Image.open(io.BytesIO(data), formats=FORMATS)
        if photo.width * photo.height > max_pixels:
            raise ImageTooLarge(f"the photo is {photo.width} x {photo.height} pixels; the limit is {max_pixels:,}")
        photo.load()
        return _eight_bits(ImageOps.exif_transpose(photo))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{error}; the limit is {max_pixels:,}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageUnreadable(f"the photo cannot be decoded: {error}") from error


def _eight_bits(photo: Image.Image) -> Image.Image:
    """Pillow's `convert` clips 16-bit grey at 255 where it should scale."""
    if not photo.mode.startswith("I"):
        return photo
    return photo.convert("I").point(lambda value: value / 256).convert("L")
