"""Colour maps, computed from a few anchor colours so that equal steps in value look like equal steps.

Between anchors the way is straight in OKLab (Ottosson 2020), a space in which distance is roughly perceived difference.
"""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Night to pale straw: lightness rises evenly, so that the map also reads in grey and to colour-blind eyes.
SEQUENTIAL = ("#0a0716", "#3c1266", "#8c1f6b", "#d8434e", "#f58b2e", "#fbd25c", "#fdf8d6")
# Blue against, near-white for nothing, red for.
DIVERGING = ("#0b3a78", "#3f84c4", "#a9cfe6", "#f6f5f3", "#f0b89c", "#cf5a4a", "#7a1029")

_TO_CONE = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip


@cache
def palette(kind: Literal["sequential", "diverging"]) -> bytes:
    """256 RGB triples. The diverging map's middle colour stands at index 128."""
    anchors = oklab(_pixels(SEQUENTIAL if kind == "sequential" else DIVERGING))
    middle = 127.5 if kind == "sequential" else 128
    # Index 0 of a diverging map is not used; see `heatmaps`.
    position = 0.5 + (np.arange(256) - middle) / (255 if kind == "sequential" else 254)
    stops = np.linspace(0, 1, len(anchors))
    lab = np.stack([np.interp(position, stops, anchors[:, channel]) for channel in range(3)], axis=1)
    return np.round(_srgb(lab) * 255).astype(np.uint8).tobytes()


def oklab(srgb: Floats) -> Floats:
    """Lightness, green-red and blue-yellow of (n, 3) sRGB colours in 0..1."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: Floats = np.cbrt(linear @ _TO_CONE.T) @ _TO_LAB.T
    return lab


def _srgb(lab: Floats) -> Floats:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_CONE).T
    linear = np.clip(linear, 0, 1)
    srgb: Floats = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.clip(srgb, 0, 1)


def _pixels(colours: tuple[str, ...]) -> Floats:
    return np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
