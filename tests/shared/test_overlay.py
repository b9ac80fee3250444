"""A heatmap over its photo."""

import io

import pytest
from PIL import Image

from heatmill.errors import ImageTooLarge, ImageUnreadable
from heatmill.overlay import open_photo, overlay, resized

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


def encoded(picture: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_a_photo_of_any_mode_can_be_shown(mode: str) -> None:
    photo = Image.new(mode, (20, 10))
    opened = open_photo(encoded(photo, "TIFF"), 1000)
    assert overlay(opened, indexed(), (0, 0, 10, 10), 0.5, 16).mode == "RGB"


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    photo = open_photo(encoded(Image.new("I;16", (4, 4), 0x8000)), 100)
    assert photo.convert("RGB").getpixel((0, 0)) == (128, 128, 128)


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_photo(encoded(halves(), "JPEG", exif=exif), 100_000).size == (100, 200)


def test_a_photo_over_the_limit_is_not_decoded() -> None:
    with pytest.raises(ImageTooLarge, match="200 x 100"):
        open_photo(encoded(halves()), 19_999)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"%PDF-1.4", b"<svg/>", encoded(halves())[:-40], b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        open_photo(data, 100_000)
