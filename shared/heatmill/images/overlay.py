"""The part of a photo that the model saw, and a heatmap laid over it."""

import math

from PIL import Image

Box = tuple[float, float, float, float]


def overlay(photo: Image.Image, heatmap: Image.Image, box: Box, alpha: float, size: int) -> Image.Image:
    """Blend a heatmap over a photo's crop.

    Args:
        photo: Upright, RGB or grayscale.
        heatmap: As stored, an indexed picture.
        box: Left, top, right, bottom of the photo that the model saw; may reach beyond the photo, which is then
            continued in black.
        alpha: 0 shows the photo only, 1 the heatmap only.
        size: Longer side of the answer in pixels; the shape is the heatmap's.
    """
    return Image.blend(seen(photo, box, scaled(heatmap.size, size)), resized(heatmap, size), alpha)


def seen(photo: Image.Image, box: Box, shape: tuple[int, int]) -> Image.Image:
    """A region of a photo, scaled to a width and a height; `photo` and `box` as in `overlay`."""
    left, top = math.floor(box[0]), math.floor(box[1])
    crop = photo.crop((left, top, math.ceil(box[2]), math.ceil(box[3]))).convert("RGB")
    exact = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return crop.resize(shape, Image.Resampling.BICUBIC, box=exact)


def resized(heatmap: Image.Image, size: int) -> Image.Image:
    """The heatmap in its colours, `size` pixels on its longer side."""
    return heatmap.convert("RGB").resize(scaled(heatmap.size, size), Image.Resampling.BICUBIC)


def scaled(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height with the same ratio, the longer one `size`."""
    longer = max(shape)
    return max(1, round(shape[0] * size / longer)), max(1, round(shape[1] * size / longer))
