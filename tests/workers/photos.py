"""Photos for tests: the four of the demo, and small ones made on the spot."""

import io
from importlib.resources import files

import numpy as np
from PIL import Image


def photo(name: str) -> bytes:
    """A photo that scikit-image ships, such as coffee.png."""
    return (files("skimage") / "data" / name).read_bytes()


def noise(seed: int, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """A small image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
