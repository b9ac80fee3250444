"""Regions cover the image and are numbered without gaps; quickshift is lime_image's."""

import numpy as np
import pytest
import torch
from lime.wrappers.scikit_image import SegmentationAlgorithm
from PIL import Image
from torch.nn import functional

from heatmill.catalogue.models import Preprocessing
from heatmill_workers.engine.perturbation.segments import as_photos, segment, segment_all
from heatmill_workers.models.preprocessing import preprocess
from tests.workers.small import photos

PREPROCESSING = Preprocessing(resize=64, crop=64)
BLOBS = as_photos(functional.interpolate(photos(1, side=8), size=(64, 64), mode="bilinear"), PREPROCESSING)[0]


def test_normalising_is_undone_to_the_last_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tensor, _ = preprocess(Image.fromarray(pixels), PREPROCESSING)

    assert np.array_equal(as_photos(tensor[None], PREPROCESSING)[0], pixels)


def test_colours_that_no_photo_has_are_clipped() -> None:
    assert set(np.unique(as_photos(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2), PREPROCESSING))) == {
        0,
        255,
    }


@pytest.mark.parametrize("seed", [0, 3])
def test_quickshift_is_lime_images(seed: int) -> None:
    # Given `random_seed`, as lime_image does, the wrapper drops it: scikit-image has called it `rng` since 0.21.
    theirs = SegmentationAlgorithm("quickshift", kernel_size=4, max_dist=200, ratio=0.2, rng=seed)(BLOBS)

    assert np.array_equal(segment(BLOBS, "quickshift", 50, seed), theirs)


def test_many_photos_are_cut_as_each_alone_and_in_their_order() -> None:
    photos_of_blobs = np.stack([BLOBS, BLOBS[::-1], BLOBS.transpose(1, 0, 2)])

    together = segment_all(photos_of_blobs, "quickshift", 50, 3)

    for photo, segments in zip(photos_of_blobs, together, strict=True):
        assert np.array_equal(segments, segment(np.ascontiguousarray(photo), "quickshift", 50, 3))
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("how", ["quickshift", "slic", "grid"])
def test_segments_are_numbered_without_gaps(how: str) -> None:
    segments = segment(BLOBS, how, 12, 0)  # type: ignore[arg-type]

    assert segments.shape == (64, 64)
    assert np.array_equal(np.unique(segments), np.arange(segments.max() + 1))
    assert segments.max() >= 2


@pytest.mark.parametrize(
    ("height", "width", "count", "found"), [(64, 64, 50, 49), (64, 32, 50, 50), (64, 64, 2, 2), (2, 3, 1000, 6)]
)
def test_a_grid_has_nearly_the_asked_number_of_nearly_equal_parts(
    height: int, width: int, count: int, found: int
) -> None:
    segments = segment(np.zeros((height, width, 3), np.uint8), "grid", count, 0)

    sizes = np.bincount(segments.ravel())
    assert len(sizes) == found
    assert sizes.min() >= sizes.max() // 2
