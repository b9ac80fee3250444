"""Whether something mixes the positions of a map after it was put out: token mixers, filters in frequencies, and such.

The model runs on one image twice, as the rows of a batch, with another map in the second row: with the first cell and
the middle one exchanged, and, on a second pass, with noise in the first cell. Pooling makes a vector of all positions,
and so do the norms and gates of a convolutional net; exchanged cells change nothing in it, and no other position after
it. What mixes positions gives the others their part of these cells: a whole row or column of a later grid changes, if
not all of it. Among tokens, noise in one cell must not reach a whole row either: linear attention treats all alike.

Convolutions and pools reach their neighbours, and those of a small map all of it; what changes by them is not counted.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heatmill_workers.engine.double import in_double
from heatmill_workers.engine.introspection.cut import CamLayer, Counted, tensors
from heatmill_workers.engine.introspection.locality import noise

ROWS = 2
# Class, distillation and register tokens.
MOST_OTHER_TOKENS = 16
# As a share of the tensor's largest value: a mean over exchanged cells differs by rounding. gMLP starts with weights of
# 1e-6.
LEAST_CHANGE = {torch.float64: 1e-10, torch.float32: 1e-4}
LOCAL = ("conv2d", "pool", "pad", "interpolate", "upsample", "unfold", "grid_sample")


def mixer(module: nn.Module, image: Tensor, cut: CamLayer) -> str | None:
    """The name of the function that first mixes the positions of the map, or None.

    Only for a model that no other thread uses yet: it computes in float64 meanwhile, where it can.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W).
        cut: Any of its maps.
    """
    images = image.expand(ROWS, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    try:
        with in_double(module):
            return _first_mixer(module, images.double(), cut)
    except (RuntimeError, TypeError):
        # A model that makes float32 of something on its way, or a device without float64.
        return _first_mixer(module, images, cut)


def has_grid_after(shapes: Sequence[tuple[int, torch.Size]], cut: CamLayer) -> bool:
    """Whether there is a tensor of as many positions after a map; the shapes are those of a pass of one image.

    Args:
        shapes: Of what each call put out, and how many calls were counted up to it.
        cut: Any.
    """
    grid = cut.shape[1:]
    later = [shape for count, shape in shapes if count > cut.call + 1 or (count == cut.call + 1 and len(shape) != 4)]
    return any(positions(shape, grid) or positions(torch.Size([1, *shape[:1], *shape[2:]]), grid) for shape in later)


def positions(shape: torch.Size, grid: tuple[int, int]) -> list[tuple[int, ...]]:
    """The axes of a later tensor that may be the grid's: (rows, columns), or (tokens,).

    Args:
        shape: (N, ...).
        grid: (h, w) of the map.
    """
    pairs = [(axis, axis + 1) for axis in range(1, len(shape) - 1) if tuple(shape[axis : axis + 2]) == grid]
    if pairs:
        return [*pairs]
    # Three dimensions are (N, tokens, width) or (N, width, tokens), four (N, heads, tokens, width).
    axes = {3: (1, 2), 4: (2, 3)}.get(len(shape), ())
    others = {axis: shape[axis] - grid[0] * grid[1] for axis in axes if shape[sum(axes) - axis] > 1}
    fitting = {axis: other for axis, other in others.items() if 0 <= other <= MOST_OTHER_TOKENS}
    return [(axis,) for axis, other in fitting.items() if other == min(fitting.values())]


class _Exchange(Counted):
    """Exchanges two cells of the map in the second of two equal rows, and looks at what becomes of it."""

    def __init__(self, cut: CamLayer) -> None:
        super().__init__()
        self.cut = cut
        self.is_over = self.is_reached = False
        self.mixer: str | None = None

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        if self.place != self.cut.place:
            self.see(name, out)
            return out
        self.is_reached = True
        maps = self.cut.reading.channels_first(out).clone()
        self.change(maps[1])
        return self.cut.reading.as_it_was(maps).contiguous()

    def see(self, name: str, out: Any) -> None:
        if not self.is_reached or self.is_over:
            return
        if any(self.is_mixed(each) for each in tensors(out)):
            self.is_over = True
            self.mixer = None if any(local in name for local in LOCAL) else name

    def change(self, cells: Tensor) -> None:
        """In place, of (C, h, w)."""
        middle = (cells.shape[1] // 2, cells.shape[2] // 2)
        first = cells[:, 0, 0].clone()
        cells[:, 0, 0] = cells[:, middle[0], middle[1]]
        cells[:, middle[0], middle[1]] = first

    def is_mixed(self, out: Tensor) -> bool:
        """Whether a grid is filled however the tensor is read: its channels may happen to be as many as its rows."""
        batch = next((axis for axis in (0, 1) if out.ndim > axis and out.shape[axis] == ROWS), None)
        if batch is None or not out.is_floating_point():
            return False
        rows, grid = out.movedim(batch, 0), self.cut.shape[1:]
        axes = self.axes(positions(rows.shape, grid))
        return bool(axes) and all(_is_filled(self.compared(rows, each), each, grid) for each in axes)

    def compared(self, rows: Tensor, axes: tuple[int, ...]) -> Tensor:
        """What is compared of the two rows of a batch."""
        return rows

    def axes(self, found: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those of the axes that are looked at."""
        return found


class _Disturb(_Exchange):
    """Puts noise into a cell; what comes of that is looked at among tokens only, as gates of a map may tell of it."""

    def change(self, cells: Tensor) -> None:
        spread = cells.std().nan_to_num(1.0) + 1
        cells[:, 0, 0] += spread * noise((1, len(cells)), cells.device)[0].to(cells.dtype)

    def axes(self, found: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [each for each in found if len(each) == 1]

    def compared(self, rows: Tensor, axes: tuple[int, ...]) -> Tensor:
        """The rows, where one factor for all positions counts as no change.

        A gate of channels is such a factor, and so is the sum that the weights of a pooling by softmax are divided by.
        """
        factor = (rows[1] / rows[0]).nanmedian(axes[0] - 1, keepdim=True).values.nan_to_num(1.0, 1.0, 1.0)
        return torch.stack([rows[0] * factor, rows[1]])


def _first_mixer(module: nn.Module, images: Tensor, cut: CamLayer) -> str | None:
    for change in (_Exchange(cut), _Disturb(cut)):
        # A model may write into its images. The copy is made here, since the mode counts its calls.
        copy = images.clone()
        with torch.enable_grad(), change:
            module(copy)
        if change.mixer:
            return change.mixer
    return None


def _is_filled(rows: Tensor, axes: tuple[int, ...], grid: tuple[int, int]) -> bool:
    """Whether a whole line of the grid is another in the second row of the batch."""
    if len(axes) == 2:
        return _fills_a_line(_changed(rows, axes))
    others = rows.shape[axes[0]] - grid[0] * grid[1]
    changed = _changed(rows, axes)
    # The other tokens stand behind the patches or before them.
    return any(_fills_a_line(changed[start:][: grid[0] * grid[1]].view(grid)) for start in (0, others))


def _changed(rows: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Where the second row differs from the first one, along these axes."""
    values = rows if rows.dtype == torch.float64 else rows.float()
    others = [axis - 1 for axis in range(1, rows.ndim) if axis not in axes]
    change = (values[1] - values[0]).abs()
    largest = change.amax(others) if others else change
    tolerance = max(LEAST_CHANGE[values.dtype], 4 * torch.finfo(rows.dtype).eps)
    return largest > tolerance * values[0].abs().max()


def _fills_a_line(changed: Tensor) -> bool:
    return bool(changed.all(0).any() or changed.all(1).any())
