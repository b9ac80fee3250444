"""A heatmap over its photo."""

import pytest
from PIL import Image

from heatmill.images.overlay import overlay, resized

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def indexed(shape: tuple[int, int] = (8, 8)) -> Image.Image:
    """A heatmap that is red all over, as it is stored."""
    heatmap = Image.new("P", shape, 1)
    heatmap.putpalette([*BLUE, *RED])
    return heatmap


def halves() -> Image.Image:
    """A photo that is green on the left and blue on the right."""
    photo = Image.new("RGB", (200, 100), GREEN)
    photo.paste(BLUE, (100, 0, 200, 100))
    return photo


def test_alpha_goes_from_the_photo_to_the_heatmap() -> None:
    shown = [overlay(halves(), indexed(), (0, 0, 100, 100), alpha, 16).getpixel((8, 8)) for alpha in (0, 0.5, 1)]
    assert shown[0] == GREEN
    assert shown[1] == pytest.approx((127, 127, 0), abs=1)
    assert shown[2] == RED


def test_only_the_part_that_the_model_saw_is_shown() -> None:
    assert overlay(halves(), indexed(), (120, 10, 180, 70), 0, 16).getcolors() == [(256, BLUE)]


def test_an_edge_between_two_pixels_is_kept() -> None:
    shown = overlay(halves(), indexed((2, 1)), (99.5, 0, 100.5, 0.5), 0, 2)
    assert shown.size == (2, 1)
    assert shown.getpixel((0, 0)) != shown.getpixel((1, 0))


def test_what_lies_beyond_the_photo_is_black() -> None:
    shown = overlay(halves(), indexed(), (-100, 0, 100, 100), 0, 32)
    assert (shown.getpixel((4, 16)), shown.getpixel((28, 16))) == (BLACK, GREEN)


@pytest.mark.parametrize(("shape", "size"), [((8, 8), (64, 64)), ((16, 8), (64, 32)), ((1, 100), (1, 64))])
def test_the_size_is_the_longer_side(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert resized(indexed(shape), 64).size == size
    assert overlay(halves(), indexed(shape), (0, 0, 50, 50), 0.5, 64).size == size


def test_a_grayscale_photo_is_shown_in_gray() -> None:
    shown = overlay(Image.new("L", (20, 10), 200), indexed(), (-10, 0, 10, 10), 0, 16)
    assert (shown.getpixel((3, 8)), shown.getpixel((13, 8))) == (BLACK, (200, 200, 200))
