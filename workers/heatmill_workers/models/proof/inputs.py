"""What a model is proved on: noise, zeros, ones, and two photos as the model sees them."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from heatmill.catalogue.models import Preprocessing
from heatmill.images import ImageLimits, decode
from heatmill_workers.models.preprocessing import preprocess

PHOTOS = ("coffee.png", "chelsea.png")
LIMITS = ImageLimits(max_bytes=2**20, max_pixels=1_000_000)
NOISE, ZEROS, ONES, FIRST_PHOTO, SECOND_PHOTO = range(5)


def proof_images(preprocessing: Preprocessing) -> Tensor:
    """One batch (5, 3, H, W) float32 on the CPU: noise, zeros, ones, and two photos as the model sees them.

    Zeros and ones lie on both sides of most thresholds that a model may compare a mean with; noise leaves no unit of a
    network without biases at zero.
    """
    shape = (3, *preprocessing.input_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    photos = [preprocess(decode(data, LIMITS), preprocessing)[0] for data in _photos()]
    return torch.stack([noise, torch.zeros(shape), torch.ones(shape), *photos])


@cache
def _photos() -> tuple[bytes, ...]:
    """Two photos that come with scikit-image, which is found without being imported."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the photos that models are proved on come with scikit-image")
    return tuple((Path(found.origin).parent / "data" / name).read_bytes() for name in PHOTOS)
