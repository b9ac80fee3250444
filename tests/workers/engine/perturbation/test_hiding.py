"""What stands in for hidden parts is what the libraries put there."""

import cv2
import numpy as np
import pytest
import torch

from heatmill.catalogue.models import Preprocessing
from heatmill_workers.engine.perturbation.hiding import blurred, segment_means, solid_colour
from tests.workers.small import photos


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 8), (1, 3), (16, 9), (32, 32)])
def test_the_blur_is_opencvs(height: int, width: int) -> None:
    (image,) = photos(1, side=32)

    wanted = cv2.blur(image.permute(1, 2, 0).numpy(), (width, height))

    np.testing.assert_allclose(blurred(image[None], height, width)[0].permute(1, 2, 0), wanted, atol=1e-5)


def test_a_level_is_a_pixels_not_the_normalised_images() -> None:
    preprocessing = Preprocessing(resize=8, crop=8)
    mean, std = (torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))

    assert (solid_colour(0.5, preprocessing).flatten() * std + mean).tolist() == pytest.approx([0.5] * 3)


def test_a_segment_is_hidden_by_its_mean_colour() -> None:
    (image,) = photos(1, side=4)
    segments = np.repeat([[0, 1, 2, 2]], 4, axis=0)

    hidden = segment_means(image, segments)

    for each in range(3):
        of_segment = torch.from_numpy(segments == each)
        wanted = image[:, of_segment].mean(1, keepdim=True).expand(3, int(of_segment.sum()))
        assert torch.allclose(hidden[:, of_segment], wanted, atol=1e-6)
