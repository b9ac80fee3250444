"""Which axes of a tensor are the image's rows and columns: found by changing parts of the image.

Four images go through the model: A, B, one that has A's upper half above B's lower half, and one that has A's left half
beside B's right half. The map of the third image is like A's in the upper cells and like B's in the lower ones; in its
left and right half it is equally like both. The same holds for the fourth image and the columns. Two more images show A
and B in stripes of a quarter of the image, so that cells that are exchanged within a half are seen too.

    likeness(cell) = |M - M_B|^2 / (|M - M_A|^2 + |M - M_B|^2), summed over the channels
    contrast       = mean of the likeness over an axis's first half less that over its second half: 1 is perfect, 0 none

The shape alone cannot tell (N, C, h, w) from (N, h, w, C), nor a map that was mirrored or mixed from one that was not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

ABOVE, BESIDE = 2, 3
# From a composite of halves to that of stripes along the same axis.
STRIPES = 2
# Smallest slope of the likeness over the share of A in each line: deep layers blur stripes, and do not exchange them.
LEAST_SLOPE = -0.1
# Lines of cells, two to a stripe: one would be blurred by its neighbours into the opposite.
FEWEST_STRIPED = 8
# Side of the squares of one colour in the noise, in pixels: deep layers average finer noise away.
SQUARE = 8
# Maps without any sense of place have 0 to 0.03; those of most architectures, with random weights, 0.1 to 1.
LEAST_CONTRAST = 0.06
# Where the axes are not those of most maps: a few channels may be like A or B by chance.
LEAST_CONTRAST_ELSEWHERE = 0.3
# Largest contrast along the other axis, as a share of the smaller of the two axes' contrasts.
LARGEST_CROSSTALK = 0.5
# Smallest ratio of the contrast to the scatter within a half of the axis: channels scatter, positions rise or fall.
LEAST_EFFECT = 2.0
# Below that contrast a map tells nothing: it does not follow the image, and is not known to be mirrored either. A deep
# layer sees the whole of a small image from each of few cells along a side.
UNDECIDED, UNDECIDED_OF_FEW = 0.2, 0.6
FEW_CELLS = 3
STRIPS = 8
# How far from a strip of the image the line of cells may be that it changes most, in lines.
FARTHEST = 1.0


@dataclass(frozen=True)
class Reading:
    """Which axes of a four-dimensional map are its channels, rows and columns."""

    channels: int = 1
    rows: int = 2
    columns: int = 3

    @property
    def axes(self) -> tuple[int, int, int]:
        """(channels, rows, columns)."""
        return self.channels, self.rows, self.columns

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(C, h, w) of a map of this shape."""
        return shape[self.channels], shape[self.rows], shape[self.columns]

    def channels_first(self, maps: Tensor) -> Tensor:
        """A view (N, C, h, w) of the maps."""
        return maps.permute(0, *self.axes)

    def as_it_was(self, maps: Tensor) -> Tensor:
        """A view of (N, C, h, w) in the order that the model made."""
        return maps.permute(0, *(1 + self.axes.index(axis) for axis in (1, 2, 3)))


CHANNELS_FIRST = Reading()
# In the order of trust: a mirrored or transposed image is rarer than channels that lie last.
READINGS = (CHANNELS_FIRST, Reading(3, 1, 2), *(Reading(*axes) for axes in permutations((1, 2, 3))))


def noise(shape: Sequence[int], device: torch.device, seed: int = 0) -> Tensor:
    """Squares of random colours and finer noise on them, float32 about 0, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    height, width = shape[-2:]
    squares = torch.randn(*shape[:-2], -(-height // SQUARE), -(-width // SQUARE), generator=generator)
    coarse = squares.repeat_interleave(SQUARE, -2).repeat_interleave(SQUARE, -1)[..., :height, :width]
    return (coarse + torch.randn(*shape, generator=generator)).to(device)


def noise_like(image: Tensor) -> Tensor:
    """What a model is probed with, in the image's shape and laid out as images are: biases may be missing."""
    if image.is_meta:
        return image
    return noise(image.shape, image.device).contiguous(memory_format=torch.channels_last)


def composites(size: tuple[int, int], device: torch.device) -> Tensor:
    """A, B, A above B, A beside B, and stripes of both down and across: (6, 3, H, W)."""
    first, second = noise((2, 3, *size), device)
    down, across = ((torch.arange(side, device=device) * 4 // side) for side in size)
    masks = [down < 2, across < 2, down % 2 == 0, across % 2 == 0]
    shapes = [(1, -1, 1), (1, 1, -1)] * 2
    mixed = [torch.where(mask.view(shape), first, second) for mask, shape in zip(masks, shapes, strict=True)]
    return torch.stack([first, second, *mixed])


def contrast(rows: Tensor, image: int, axis: int) -> float:
    """How the likeness to A falls along an axis.

    Args:
        rows: What the model made of `composites`, (6, ...).
        image: ABOVE or BESIDE.
        axis: Of `rows`.
    """
    return _fall(likenesses(rows, image, axis))


def likenesses(rows: Tensor, image: int, axis: int) -> Tensor:
    """How much a composite is like A (1) and not like B (0) at each index of an axis; 0.5 where both are the same."""
    return _likeness(rows, image, [each - 1 for each in range(1, rows.ndim) if each != axis])


def follows(rows: Tensor) -> Reading | None:
    """How a map is to be read; None where it does not clearly follow the image.

    Args:
        rows: What the model made of `composites`, (6, ...) in four dimensions.
    """
    return next((reading for reading in READINGS if _fits(rows, reading)), None)


def tells_nothing(rows: Tensor) -> bool:
    """Whether a map (N, C, h, w) that does not follow the image does not contradict it either."""
    down, across = (_along(rows, CHANNELS_FIRST, image)[0] for image in (ABOVE, BESIDE))
    return max(abs(down), abs(across)) < (UNDECIDED_OF_FEW if has_few_cells(rows) else UNDECIDED)


def strips(size: tuple[int, int], device: torch.device) -> Tensor:
    """A, and A with each eighth of its rows, then each of its columns, taken from B: (17, 3, H, W)."""
    first, second = noise((2, 3, *size), device)
    lines = (torch.arange(side, device=device) * STRIPS // side for side in size)
    shown = [
        line.view(shape) == each
        for line, shape in zip(lines, ((1, -1, 1), (1, 1, -1)), strict=True)
        for each in range(STRIPS)
    ]
    return torch.stack([first, *(torch.where(mask, second, first) for mask in shown)])


def is_in_place(rows: Tensor, reading: Reading) -> bool:
    """Whether each strip of the image changes the map where it lies, and most of all there.

    Args:
        rows: What the model made of `strips`, (17, ...) in four dimensions.
        reading: How they are read.
    """
    maps = reading.channels_first(rows).double()
    change = (maps[1:] - maps[0]).square().sum(1)
    return _is_placed(change[:STRIPS].sum(2)) and _is_placed(change[STRIPS:].sum(1))


def _is_placed(change: Tensor) -> bool:
    """Of the change (strips, lines): whether each strip's largest share of a line is at its own line or the next."""
    count = change.shape[1]
    share = change / change.sum(0).clamp(min=torch.finfo(change.dtype).tiny)
    wanted = (torch.arange(STRIPS) + 0.5) / STRIPS * count - 0.5
    seen = share.amax(1).cpu() > 0
    # Of an image that was cropped the outermost strips change nothing.
    if not bool(seen[0] and seen[-1]):
        return False
    return bool(((share.argmax(1).cpu() - wanted).abs()[seen] <= FARTHEST).all())


def has_few_cells(rows: Tensor) -> bool:
    """Whether a map (N, C, h, w) is so small that a deep layer need not follow the image."""
    return max(rows.shape[2:]) <= FEW_CELLS


def _fits(rows: Tensor, reading: Reading) -> bool:
    found = [_along(rows, reading, image) for image in (ABOVE, BESIDE)]
    smallest = min(contrast for contrast, _, _ in found)
    least = LEAST_CONTRAST if reading == CHANNELS_FIRST else LEAST_CONTRAST_ELSEWHERE
    return smallest >= least and all(
        contrast >= LEAST_EFFECT * scatter
        and crosstalk <= LARGEST_CROSSTALK * smallest
        and _slope(rows, reading, image) >= LEAST_SLOPE
        for image, (contrast, scatter, crosstalk) in zip((ABOVE, BESIDE), found, strict=True)
    )


def _slope(rows: Tensor, reading: Reading, image: int) -> float:
    """Slope of the likeness in the composite of stripes over the share of A in each line; 1 is perfect, 0 none."""
    likeness = _cells(rows, reading, image + STRIPES).mean(1 if image == ABOVE else 0)
    count = len(likeness)
    if count < FEWEST_STRIPED:
        return 1.0
    # How much of each line of cells lies in stripes of A.
    fine = torch.arange(4 * count) // count % 2 == 0
    shown = fine.double().view(count, 4).mean(1).to(likeness.device)
    weights = shown - shown.mean()
    return float((weights * likeness).sum() / weights.square().sum())


def _along(rows: Tensor, reading: Reading, image: int) -> tuple[float, float, float]:
    """Of a composite of halves: contrast along its axis, scatter within the halves, contrast along the other axis."""
    likeness = _cells(rows, reading, image)
    own, other = (likeness.mean(1), likeness.mean(0)) if image == ABOVE else (likeness.mean(0), likeness.mean(1))
    half = len(own) // 2
    scatter = torch.stack([own[:half], own[len(own) - half :]]).std(1, correction=0).mean() if half else 0.0
    return _fall(own), float(scatter), abs(_fall(other))


def _cells(rows: Tensor, reading: Reading, image: int) -> Tensor:
    """The likeness of a composite in each cell, (h, w)."""
    return _likeness(reading.channels_first(rows), image, [0])


def _likeness(rows: Tensor, image: int, dimensions: list[int]) -> Tensor:
    """As in the module's docstring; `dimensions` of one image are summed over."""
    values = rows.double()
    to_first, to_second = ((values[image] - values[known]).square().sum(dimensions) for known in (0, 1))
    return torch.where(to_first + to_second > 0, to_second / (to_first + to_second), 0.5)


def _fall(likeness: Tensor) -> float:
    half = len(likeness) // 2
    return float(likeness[:half].mean() - likeness[-half:].mean()) if half else 0.0
