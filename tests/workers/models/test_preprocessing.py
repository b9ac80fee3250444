"""A photo to a tensor, as torchvision does it, and the region that the tensor shows."""

import io
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from heatmill.catalogue.models import Preprocessing
from heatmill.images import ImageLimits, decode, decode_reduced
from heatmill_workers.models.preprocessing import least_side, preprocess, preprocess_photo

ORIENTATION = 0x0112
LIMITS = ImageLimits(50_000_000, 50_000_000)


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(640, 480), (301, 500), (224, 224), (97, 61), (1000, 70)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (64, 64), (48, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_it_is_torchvisions_preset(size: tuple[int, int], resize: int, crop: int, interpolation: str) -> None:
    ours = Preprocessing.model_validate({"resize": resize, "crop": crop, "interpolation": interpolation})
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation), antialias=True
    )

    tensor, _ = preprocess(photo(*size), ours)

    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, preset(photo(*size)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(640, 480), (301, 500), (97, 61), (30, 400)])
def test_a_photo_covers_both_sides_by_one_factor(size: tuple[int, int]) -> None:
    covering = Preprocessing(resize=(60, 90), fit="cover", crop=(60, 90), mean=(0, 0, 0), std=(1, 1, 1))

    tensor, (left, top, right, bottom) = preprocess(photo(*size), covering)

    assert tensor.shape == (3, 60, 90)
    assert (right - left) / (bottom - top) == pytest.approx(1.5, rel=0.03)
    assert min(size[0] - (right - left), size[1] - (bottom - top)) == pytest.approx(0, abs=1)


def test_a_crop_that_is_half_a_pixel_aside_begins_as_the_library_has_it() -> None:
    """167 - 64 leaves 51.5 pixels at either side: torchvision begins at 52, transformers at 51."""
    even, down = (
        preprocess(photo(167, 64), Preprocessing.model_validate({"resize": 64, "crop": 64, "crop_rounding": each}))
        for each in ("even", "down")
    )

    assert (even[1][0], down[1][0]) == (52, 51)
    torch.testing.assert_close(even[0][:, :, :-1], down[0][:, :, 1:])


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_every_filter_of_pillow_has_its_name(name: str) -> None:
    ours = Preprocessing.model_validate(
        {"resize": [40, 50], "crop": [40, 50], "interpolation": name, "mean": [0, 0, 0], "std": [1, 1, 1]}
    )

    tensor, _ = preprocess(photo(301, 203), ours)

    pillow = photo(301, 203).resize((50, 40), getattr(Image.Resampling, name.upper()))
    torch.testing.assert_close(tensor, torch.from_numpy(np.asarray(pillow) / np.float32(255)).permute(2, 0, 1))


def test_where_single_pixels_are_picked_a_photo_is_not_reduced() -> None:
    picking, data = Preprocessing(resize=64, crop=64, interpolation="nearest"), io.BytesIO()
    photo(2048, 2048).save(data, "JPEG")

    assert decode_reduced(data.getvalue(), LIMITS, least_side(picking)).reduced_by == 1


def test_the_box_is_the_middle_of_the_photo() -> None:
    _, box = preprocess(photo(600, 400), Preprocessing(resize=256, crop=224))

    assert box == pytest.approx((125, 25, 475, 375))


@pytest.mark.parametrize("size", [(640, 480), (300, 500), (4000, 100)])
def test_the_box_holds_what_the_tensor_shows(size: tuple[int, int]) -> None:
    """A photo whose colour is its position shows the box's own position in the tensor."""
    width, height = size
    across, down = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = (np.stack([across, down, 0 * down], axis=2) * 255).round().astype(np.uint8)
    plain = Preprocessing(resize=128, crop=112, mean=(0, 0, 0), std=(1, 1, 1))

    tensor, (left, top, right, bottom) = preprocess(Image.fromarray(pixels), plain)

    assert float(tensor[0].mean()) * width == pytest.approx((left + right) / 2, abs=width / 100)
    assert float(tensor[1].mean()) * height == pytest.approx((top + bottom) / 2, abs=height / 100)
    assert float(tensor[0].max() - tensor[0].min()) * width == pytest.approx(right - left, rel=0.03, abs=width / 100)


def test_the_box_reaches_past_a_photo_that_is_padded() -> None:
    tensor, box = preprocess(photo(60, 60), Preprocessing(resize=60, crop=64, mean=(0, 0, 0), std=(1, 1, 1)))

    assert box == (-2, -2, 62, 62)
    assert float(tensor[:, 0].abs().max()) == 0


def test_a_strip_does_not_become_gigabytes() -> None:
    tensor, (left, top, right, bottom) = preprocess(Image.new("RGB", (1_000_000, 2)), Preprocessing())

    assert tensor.shape == (3, 224, 224)
    assert (right - left, bottom - top) == pytest.approx((1.75, 1.75))
    assert (left + right) / 2 == pytest.approx(500_000, abs=1)


def test_height_and_width_may_be_given_each() -> None:
    tensor, box = preprocess(photo(100, 50), Preprocessing(resize=(32, 48), crop=(32, 48)))

    assert tensor.shape == (3, 32, 48)
    assert box == (0, 0, 100, 50)


@pytest.mark.parametrize("size", [(4001, 2667), (1600, 1067), (2667, 4001), (6000, 301)])
def test_a_photo_that_was_reduced_gives_the_same_region_and_nearly_the_same_tensor(size: tuple[int, int]) -> None:
    plain, data = Preprocessing(), io.BytesIO()
    Image.open(str(files("skimage") / "data/coffee.png")).resize(size).save(data, "JPEG", quality=95)

    reduced = decode_reduced(data.getvalue(), LIMITS, least_side(plain))
    whole = decode(data.getvalue(), LIMITS)
    (ours, box), (theirs, same) = preprocess_photo(reduced, plain), preprocess(whole, plain)

    assert reduced.reduced_by == (1 if min(size) < 1024 else 2 if min(size) < 2048 else 4)
    assert box == same
    # In grey levels of 255.
    assert float((ours - theirs).abs().mean()) * 255 * 0.226 < 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(521, 523), (525, 521), (1041, 1035)])
def test_a_reduced_photo_that_is_turned_is_read_as_exactly_as_one_that_is_not(
    size: tuple[int, int], orientation: int
) -> None:
    """The decoder fills up the last stored column and row, which lie first in a photo that is turned."""
    plain = Preprocessing(resize=32, crop=32, mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))
    coffee = Image.open(str(files("skimage") / "data/coffee.png")).resize(size)
    exif, data = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    coffee.save(data, "JPEG", quality=95, exif=exif)

    reduced = decode_reduced(data.getvalue(), LIMITS, least_side(plain))
    (ours, box), (theirs, same) = preprocess_photo(reduced, plain), preprocess(decode(data.getvalue(), LIMITS), plain)

    assert (reduced.reduced_by, box) == (8, same)
    assert float((ours - theirs).abs().mean()) < 1
    assert float((ours - theirs).abs().max()) < 10


def test_lines_of_one_pixel_come_out_otherwise_where_decoding_is_reduced_and_the_same_where_it_is_not() -> None:
    lines = np.zeros((1024, 1024, 3), np.uint8)
    lines[::5], lines[:, ::5] = 255, 255
    data = io.BytesIO()
    Image.fromarray(lines).save(data, "JPEG", quality=95)
    unit = {"mean": (0, 0, 0), "std": (1 / 255, 1 / 255, 1 / 255)}

    def from_whole(**options: bool) -> float:
        plain = Preprocessing.model_validate(unit | options)
        ours, _ = preprocess_photo(decode_reduced(data.getvalue(), LIMITS, least_side(plain)), plain)
        return float((ours - preprocess(decode(data.getvalue(), LIMITS), plain)[0]).abs().mean())

    assert 5 < from_whole() < 13
    assert from_whole(reduced_decoding=False) == 0
