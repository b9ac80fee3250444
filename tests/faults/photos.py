"""Images that order the test's classifier about, and jobs of them."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.faults.classifier import EXHAUST, FAIL, HANG, HOARD, KILL, NAP, ORDER, SIDE


@dataclass(frozen=True)
class Photo:
    """An item of a job."""

    id: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Its name in the store."""
        return hashlib.sha256(self.data).hexdigest()


def ordering(name: str, act: int, measure: int = 0) -> Photo:
    """Noise, with an order in its top left pixel."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[0, 0] = (act, measure, ORDER)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Photo(name, file.getvalue())


def slow(count: int, hundredths: int = 10) -> list[Photo]:
    """Images that take a while each: twice the given time, since the model sees them twice."""
    return [ordering(f"slow-{number:04}", NAP, hundredths) for number in range(count)]


KILLER = ordering("killer", KILL)
HANGING = ordering("hanging", HANG)
HOARDING = ordering("hoarding", HOARD)
EXHAUSTING = ordering("exhausting", EXHAUST)
BUGGY = ordering("buggy", FAIL)
