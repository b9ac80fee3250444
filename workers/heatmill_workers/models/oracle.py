"""A library's own image processor, held against heatmill's preprocessing: what it does is measured on a few pictures.

Its settings do not say all that a processor does (it may turn colours around, normalise twice, crop before it
resizes), and a processor may be anybody's code. So plain colours show its normalisation, and whole pictures whether it
resizes and crops as `Preprocessing` does.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatmill.catalogue.models import Channels, ModelSpec, Preprocessing
from heatmill.errors import ModelUnavailable
from heatmill_workers.models.preprocessing import preprocess

# An RGB photo to a tensor (3, H, W).
Process = Callable[[Image.Image], Tensor]

# In grey levels of 255, of a picture's pixels: their mean difference, and what all but one in a thousand keep to. The
# same filter in Pillow, in torchvision on bytes and on floats, on these pictures at 32 to 512 pixels: at most 0.33 and
# 3.5, since bytes are rounded on the way. The smallest faults: 2.3 and 12 (Lanczos for bicubic), 5 and 43 (a crop one
# pixel aside), 8 and 28 (without antialiasing).
LARGEST_MEAN, LARGEST_USUAL = 0.8, 5.0
USUAL = 0.999
# Largest distance from the line between black and white: 0.6 of one step of 255.
BENT = 0.6 / 255
DIGITS = 6
SMALL_SHAPES = ((43, 71), *((width, 31) for width in (37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)))
# At these, many resized pixels are as near to one pixel as to another, and libraries pick different ones.
COMMON_SHAPES = ((640, 480), (256, 341), (512, 512), (63, 64))


class Disagreement(ValueError):
    """What the processor does and `Preprocessing` cannot say, in words that follow the processor's name."""


@dataclass(frozen=True)
class Colours:
    """How a processor normalises: pixels in 0..1 become (pixel - mean) / std, in the model's order of channels."""

    channel_order: Literal["RGB", "BGR"]
    mean: Channels
    std: Channels


def require_agreement(spec: ModelSpec, name: str, process: Process, preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing, if the library's own makes the same tensors of the same pictures.

    Args:
        spec: For the message.
        name: Of the library's processor.
        process: The library's.
        preprocessing: What was read from the library's settings.

    Raises:
        ModelUnavailable: They differ.
    """
    try:
        return agreeing(processed(process), [preprocessing])
    except Disagreement as error:
        raise unsuitable(spec, name, str(error)) from error


def unsuitable(spec: ModelSpec, name: str, what_it_does: str) -> ModelUnavailable:
    """The refusal of a model for what its processor does."""
    return ModelUnavailable(
        f"model {spec.name}: its image processor {name} {what_it_does}. [models.preprocessing] in models.toml "
        f"replaces the processor: write resize, crop, interpolation, channel_order, mean and std there"
    )


def processed(process: Process) -> list[Tensor]:
    """What the processor makes of each of `pictures`, (3, H, W) float32.

    Raises:
        Disagreement: Something else.
    """
    return [_processed(process, picture) for picture in pictures()]


def agreeing(made: Sequence[Tensor], candidates: Iterable[Preprocessing]) -> Preprocessing:
    """The first candidate that makes the processor's tensors, but for the rounding of resampling.

    Args:
        made: What `processed` returned.
        candidates: In the order of preference.

    Raises:
        Disagreement: None does.
    """
    nearest = float("inf")
    for candidate in candidates:
        distance = _largest_distance(made, candidate)
        if distance <= LARGEST_MEAN:
            return candidate
        nearest = min(nearest, distance)
    if nearest == float("inf"):
        sizes = " and ".join(f"{each.shape[2]} x {each.shape[1]}" for each in made[:2])
        raise Disagreement(f"makes {sizes} pixels of two photos, which its settings do not say")
    raise Disagreement(
        "resizes, crops or colours photos otherwise than its settings say: heatmill's tensors by these settings are "
        f"{nearest:.1f} of 255 grey levels away from its own, and rounding makes at most {LARGEST_MEAN}"
    )


def output_size(made: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of what the processor makes of any photo.

    Args:
        made: What `processed` returned.

    Raises:
        Disagreement: Photos of different shapes come out in different shapes.
    """
    shapes = [tuple(each.shape[1:]) for each in made]
    if len(set(shapes)) > 1:
        (height, width), (other_height, other_width) = sorted(set(shapes))[:2]
        raise Disagreement(
            f"puts out {width} x {height} pixels for one photo and {other_width} x {other_height} for another, "
            "which make no batch"
        )
    height, width = shapes[0]
    return height, width


def colours(process: Process, declared: tuple[Sequence[float], Sequence[float]] | None = None) -> Colours:
    """How the processor normalises, measured on plain colours.

    Args:
        process: The processor.
        declared: Mean and standard deviation of its settings; taken digit by digit where they are what it does.

    Raises:
        Disagreement: Channels are mixed or in another order, or brightness does not stay proportional.
    """
    black, white, grey = (_plain(process, (level,) * 3) for level in (0, 255, 128))
    gains = (
        np.stack([_plain(process, tuple(255 * (row == channel) for row in range(3))) for channel in range(3)]) - black
    )
    reach = white - black
    if not (reach > 0).all():
        raise Disagreement("turns brightness around, or puts out the same for black and for white")
    if np.abs((grey - black) / reach - 128 / 255).max() > BENT:
        raise Disagreement("changes brightness along a curve")
    # Row: the colour that goes in; column: the channel that comes out.
    orders = {"RGB": np.eye(3), "BGR": np.eye(3)[::-1]}
    found = [order for order, wanted in orders.items() if np.abs(gains / reach - wanted).max() <= BENT]
    if not found:
        raise Disagreement(
            "mixes red, green and blue, orders them neither RGB nor BGR, or goes by the brightness of the whole photo"
        )
    std = 1 / reach
    measured = _rounded(-black * std), _rounded(std)
    if declared is not None and all(_same(*pair) for pair in zip(measured, declared, strict=True)):
        measured = _channels(declared[0]), _channels(declared[1])
    return Colours("RGB" if found[0] == "RGB" else "BGR", *measured)


@cache
def pictures() -> tuple[Image.Image, ...]:
    """Noise, photos and strips, smaller than what models read and larger.

    The first ones have prime sides, so that no resized pixel is a tie; the last ones make ties, by which two filters
    that pick the nearest pixel are told apart. Of so many shapes one leaves over an odd number of pixels beside the
    crop, by which the two ways to round are told apart. The noise keeps clear of black and white, where filters that
    overshoot are cut off at different times.
    """
    photo = Image.open(str(files("skimage") / "data/coffee.png")).convert("RGB")
    whole, strip = photo.crop((0, 0, 599, 397)), photo.crop((0, 100, 599, 297))
    large = Image.blend(photo.resize((1601, 1201)), _noise(1601, 1201), 0.5)
    return _noise(331, 449), whole, strip, large, *(_noise(*sides) for sides in (*SMALL_SHAPES, *COMMON_SHAPES))


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(64, 192, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _plain(process: Process, colour: tuple[int, ...]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    made = _processed(process, Image.new("RGB", pictures()[0].size, colour))
    middle: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (
        made[:, made.shape[1] // 2, made.shape[2] // 2].double().numpy()
    )
    return middle


def _processed(process: Process, picture: Image.Image) -> Tensor:
    try:
        made = process(picture)
    # Anybody's code.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise Disagreement(f"fails on a photo ({type(error).__name__}: {reason})") from error
    if made.ndim != 3 or made.shape[0] != 3 or 0 in made.shape:
        raise Disagreement(f"makes {tuple(made.shape)} of a photo instead of (3, height, width)")
    if not made.float().isfinite().all():
        raise Disagreement("makes numbers that are not finite of a photo, such as one of a single colour")
    return made.detach().cpu().float()


def _largest_distance(made: Sequence[Tensor], candidate: Preprocessing) -> float:
    """The largest distance over the pictures, up to the first one that rules the candidate out."""
    largest = 0.0
    for picture, tensor in zip(pictures(), made, strict=True):
        largest = max(largest, _distance(picture, tensor, candidate))
        if largest > LARGEST_MEAN:
            break
    return largest


def _distance(picture: Image.Image, wanted: Tensor, candidate: Preprocessing) -> float:
    """In grey levels: at most `LARGEST_MEAN` if only the rounding of resampling is between the tensors."""
    if wanted.shape[1:] != candidate.input_size:
        return float("inf")
    ours, _ = preprocess(picture, candidate)
    levels = (ours - wanted).abs() * torch.tensor(candidate.std).view(3, 1, 1) * 255
    usual = float(np.quantile(levels.numpy(), USUAL))
    return max(float(levels.mean()), usual * LARGEST_MEAN / LARGEST_USUAL)


def _rounded(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Channels:
    first, second, third = (round(float(f"{value:.{DIGITS}g}"), 2 * DIGITS) + 0.0 for value in values)
    return first, second, third


def _same(measured: Channels, declared: Sequence[float]) -> bool:
    return len(declared) == 3 and np.allclose(measured, declared, rtol=1e-5, atol=1e-6)


def _channels(values: Sequence[float]) -> Channels:
    first, second, third = (float(value) for value in values)
    return first, second, third
