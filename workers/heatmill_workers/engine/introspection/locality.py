"""Which axes of a tensor are the image's rows and columns: found by changing parts of the image.

Four images go through the model: A, B, one that has A's upper half above B's lower half, and one that has A's left half
beside B's right half. Along the axis of the rows, the tensor of the third image is like A's at the start and like B's
at the end; along every other axis it is equally like both. The same holds for the columns and the fourth image.

    likeness(i) = |M - M_B|^2 / (|M - M_A|^2 + |M - M_B|^2), summed over the other axes, at index i of the axis
    contrast    = mean of the likeness over the axis's first half less that over its second half: 1 is perfect, 0 none

The shape alone cannot tell (N, C, h, w) from (N, h, w, C), nor a map that was mirrored or mixed from one that was not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

ABOVE, BESIDE = 2, 3
# Side of the squares of one colour in the noise, in pixels: deep layers average finer noise away.
SQUARE = 8
# Maps of architectures with random weights have 0.1 to 1 at their own size, and what does not follow the image 0.03.
LEAST_CONTRAST = 0.06
# Where the axes are not those of most maps: a few channels may be like A or B by chance.
LEAST_CONTRAST_ELSEWHERE = 0.3
# Of the contrast to the scatter within a half of the axis; channels scatter, positions rise or fall.
LEAST_EFFECT = 2.0
# Of the contrast along its own axis: what the other image may make of it.
LARGEST_CROSSTALK = 0.5
# A deep layer sees the whole of a small image from each of so few cells along a side: below that contrast nothing is
# told, and the map is taken as most are.
FEW_CELLS = 3
UNDECIDED = 0.6


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
    return (coarse + 0.5 * torch.randn(*shape, generator=generator)).to(device)


def composites(size: tuple[int, int], device: torch.device) -> Tensor:
    """A, B, A above B, A beside B: (4, 3, H, W)."""
    first, second = noise((2, 3, *size), device)
    above, beside = second.clone(), second.clone()
    above[:, : size[0] // 2] = first[:, : size[0] // 2]
    beside[..., : size[1] // 2] = first[..., : size[1] // 2]
    return torch.stack([first, second, above, beside])


def contrast(rows: Tensor, image: int, axis: int) -> float:
    """How the likeness to A falls along an axis.

    Args:
        rows: What the model made of `composites`, (4, ...).
        image: ABOVE or BESIDE.
        axis: Of `rows`.
    """
    likeness = likenesses(rows, image, axis)
    half = len(likeness) // 2
    if half == 0:
        return 0.0
    return float(likeness[:half].mean() - likeness[-half:].mean())


def likenesses(rows: Tensor, image: int, axis: int) -> Tensor:
    """How much a composite is like A (1) and not like B (0) at each index of an axis; 0.5 where both are the same."""
    others = [each for each in range(rows.ndim) if each not in {0, axis}]
    values = rows.double()
    to_first, to_second = ((values[image] - values[known]).square() for known in (0, 1))
    dimensions = [each - 1 for each in others]
    to_first, to_second = to_first.sum(dimensions), to_second.sum(dimensions)
    return torch.where(to_first + to_second > 0, to_second / (to_first + to_second), 0.5)


def read(rows: Tensor) -> Reading | None:
    """How a map is to be read; None where it does not follow the image.

    Args:
        rows: What the model made of `composites`, (4, ...) in four dimensions.
    """
    found = follows(rows)
    if found is not None or max(rows.shape[2:]) > FEW_CELLS:
        return found
    told = max(abs(contrast(rows, ABOVE, 2)), abs(contrast(rows, BESIDE, 3)))
    return CHANNELS_FIRST if told < UNDECIDED else None


def follows(rows: Tensor) -> Reading | None:
    """How a map is to be read if it clearly follows the image; otherwise as `read`."""
    return next((reading for reading in READINGS if _fits(rows, reading)), None)


def _fits(rows: Tensor, reading: Reading) -> bool:
    down, across = contrast(rows, ABOVE, reading.rows), contrast(rows, BESIDE, reading.columns)
    least = LEAST_CONTRAST if reading == CHANNELS_FIRST else LEAST_CONTRAST_ELSEWHERE
    crosstalk = max(abs(contrast(rows, ABOVE, reading.columns)), abs(contrast(rows, BESIDE, reading.rows)))
    if min(down, across) < least or crosstalk > LARGEST_CROSSTALK * min(down, across):
        return False
    scatters = (_scatter(rows, ABOVE, reading.rows), _scatter(rows, BESIDE, reading.columns))
    return down >= LEAST_EFFECT * scatters[0] and across >= LEAST_EFFECT * scatters[1]


def _scatter(rows: Tensor, image: int, axis: int) -> float:
    """Standard deviation of the likeness within the halves of an axis."""
    likeness = likenesses(rows, image, axis)
    half = len(likeness) // 2
    return float(torch.stack([likeness[:half], likeness[-half:]]).std(1, correction=0).mean())
