"""Colour maps that mean what they look like."""

from typing import Literal

import numpy as np
import pytest

from heatmill_workers.outputs.colourmaps import Floats, oklab, palette


def lab(kind: Literal["sequential", "diverging"]) -> Floats:
    colours = np.frombuffer(palette(kind), np.uint8).reshape(256, 3)
    return oklab(colours / 255)


def test_more_is_lighter_on_the_sequential_map() -> None:
    lightness = lab("sequential")[:, 0]

    assert (np.diff(lightness) > 0).all()
    assert (lightness[0], lightness[-1]) == pytest.approx((0.13, 0.98), abs=0.03)


def test_equal_steps_look_about_equal_on_the_sequential_map() -> None:
    steps = np.linalg.norm(np.diff(lab("sequential"), axis=0), axis=1)
    # Single steps jump with the rounding to bytes; eight in a row do not.
    smooth = np.convolve(steps, np.ones(8) / 8, "valid")

    assert smooth.max() / smooth.min() < 2.5


def test_the_diverging_map_is_lightest_at_index_128_and_darkens_evenly_to_both_sides() -> None:
    lightness = lab("diverging")[:, 0]

    assert lightness.argmax() == 128
    assert (np.diff(lightness[1:129]) > 0).all()
    assert (np.diff(lightness[128:]) < 0).all()
    np.testing.assert_allclose(lightness[128 - 127 : 128], lightness[:128:-1], atol=0.08)


def test_the_diverging_map_has_blue_below_and_red_above() -> None:
    chroma = lab("diverging")

    assert (chroma[1:100, 2] < 0).all()
    assert (chroma[156:, 1] > 0).all()
