"""Attributions to pictures and arrays, and back to numbers."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from heatmill_workers.methods.contract import Picture
from heatmill_workers.outputs.heatmap import decode_array, encode_array, read_values, render

Map = NDArray[np.float32]
PICTURES: list[Picture] = ["signed", "magnitude", "positive"]
SIZE = (32, 48)


def attribution(channels: int = 3, scale: float = 1.0) -> Map:
    values = np.random.default_rng(0).standard_normal((channels, *SIZE)) * scale
    return values.astype(np.float32)


def flat(values: Map, picture: Picture) -> Map:
    if picture == "magnitude":
        magnitude: Map = np.abs(values).max(axis=0)
        return magnitude
    total: Map = values.sum(axis=0)
    return total if picture == "signed" else np.maximum(total, 0)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e6, 1e30])
def test_the_numbers_can_be_read_back_to_half_a_step(picture: Picture, scale: float) -> None:
    values = attribution(scale=scale)

    heatmap = render(values, picture, SIZE)

    steps = 127 if picture == "signed" else 255
    wanted = np.clip(flat(values, picture), -heatmap.scale * steps, heatmap.scale * steps)
    np.testing.assert_allclose(read_values(heatmap.png), wanted, atol=heatmap.scale * 0.5001, rtol=1e-5)
    assert heatmap.zero_index == (128 if picture == "signed" else 0)


@pytest.mark.parametrize(("picture", "within"), [("signed", 0.005), ("magnitude", 0.005), ("positive", 0.0)])
def test_the_scale_leaves_out_at_most_the_brightest_half_percent(picture: Picture, within: float) -> None:
    values = attribution()
    heatmap = render(values, picture, SIZE)

    beyond = np.abs(flat(values, picture)) > heatmap.scale * (127 if picture == "signed" else 255) * 1.0001

    assert beyond.mean() <= within


@pytest.mark.parametrize("picture", PICTURES)
def test_it_is_an_indexed_picture_of_the_asked_size(picture: Picture) -> None:
    image = Image.open(BytesIO(render(attribution(1)[:, :7, :7], picture, (224, 160)).png))

    assert (image.format, image.mode, image.size) == ("PNG", "P", (160, 224))


@pytest.mark.parametrize("picture", PICTURES)
def test_a_map_of_zeros_is_all_zero_index(picture: Picture) -> None:
    heatmap = render(np.zeros((3, *SIZE), np.float32), picture, SIZE)

    assert heatmap.scale == 0
    assert set(np.asarray(Image.open(BytesIO(heatmap.png))).ravel()) == {heatmap.zero_index}
    assert not read_values(heatmap.png).any()


def test_a_single_bright_pixel_is_seen() -> None:
    values = np.zeros((1, *SIZE), np.float32)
    values[0, 3, 5] = -2

    read = read_values(render(values, "signed", SIZE).png)

    assert read[3, 5] == pytest.approx(-2)
    assert np.count_nonzero(read) == 1


def test_against_is_blue_for_is_red_and_nothing_is_near_white() -> None:
    values = np.array([[[-1, 0, 1]]], np.float32)

    image = Image.open(BytesIO(render(values, "signed", (1, 3)).png)).convert("RGB")

    against, nothing, speaks_for = np.asarray(image).astype(int)[0]
    assert against[2] > against[0]
    assert speaks_for[0] > speaks_for[2]
    assert nothing.min() > 230


def test_a_coarse_map_is_interpolated_bilinearly_and_keeps_its_place() -> None:
    values = np.zeros((1, 4, 4), np.float32)
    values[0, 0, 3] = 1

    read = read_values(render(values, "positive", (64, 64)).png)

    brightest = divmod(int(read.argmax()), 64)
    assert brightest[0] < 9
    assert brightest[1] > 54
    assert read[8, 55] == pytest.approx(read.max(), rel=0.1)
    assert not read[40:].any()
    assert not read[:, :24].any()


@pytest.mark.parametrize("scale", [1e-38, 1e-12, 1e-8, 1.0, 1e5, 1e30])
def test_stored_arrays_keep_tiny_and_huge_values(scale: float) -> None:
    values = attribution(scale=scale)

    array = encode_array(values)

    stored = np.load(BytesIO(array.npy))
    assert (stored.dtype, stored.shape) == (np.float16, values.shape)
    np.testing.assert_allclose(decode_array(array), values, rtol=2**-11, atol=np.abs(values).max() * 2**-38)


@given(arrays.arrays(np.float32, (1, 3, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_any_finite_attribution_can_be_stored_and_drawn(values: Map) -> None:
    largest = float(np.abs(values).max())

    array = encode_array(values)

    np.testing.assert_allclose(decode_array(array), values, rtol=2**-10, atol=max(largest * 2**-37, 1e-44))
    assert np.log2(array.factor) == round(np.log2(array.factor))
    for picture in PICTURES:
        assert np.isfinite(read_values(render(values, picture, (5, 5)).png)).all()
