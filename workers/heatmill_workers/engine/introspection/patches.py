"""Which token is which patch of the image: found by changing parts of the image and seeing which tokens change.

What is looked at are the values of the first attention, (N, heads, tokens, width), before any token has seen another;
the pass ends there. A token that is the same for every image is none of the patches: a class token, a register.

Every other token gets its place from composites of two images A and B: the rows of a grid are numbered by a Gray code,
one composite a bit, and a row shows A where its bit is set; columns likewise. A token is like A or like B in each: that
spells its row and its column, wherever it stands in the sequence. Where patches overlap so far that not all can be told
apart, as behind a convolutional trunk, the tokens have to follow the image as a map does, in the order of the sequence.

Channels may attend to one another like tokens do, as in XCiT, and be as many. They spell no place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from heatmill_workers.engine.introspection.attention import Capture, to_themselves
from heatmill_workers.engine.introspection.locality import (
    ABOVE,
    CHANNELS_FIRST,
    composites,
    contrast,
    follows,
    is_in_place,
    likenesses,
    strips,
)
from heatmill_workers.engine.introspection.mixing import MOST_OTHER_TOKENS

Grid = tuple[int, int]
# How many grids are tried.
TRIED = 6
# As a share of the largest change of a token between two images.
LEAST_CHANGE = 1e-6
# How far from 0.5 the likeness of tokens is on average, at least, where each is to be told.
LEAST_MARGIN = 0.25
PROJECTED = 32


@dataclass(frozen=True)
class Patches:
    """A grid of patches in a sequence of tokens.

    Args:
        grid: (down, across).
        tokens: The token of each patch, in reading order.
    """

    grid: Grid
    tokens: tuple[int, ...]


def find_patches(module: nn.Module, image: Tensor, call: int, grids: Sequence[Grid]) -> Patches | None:
    """The place of each patch among the tokens; None where the attention is between something else.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W), for its size.
        call: The first attention call that counts.
        grids: (rows, columns) of tensors that were seen before it; one of them may be the patches'.
    """
    size = (image.shape[2], image.shape[3])
    images = composites(size, image.device)
    values = _values(module, images, [call], is_over=True).get(call)
    if values is None:
        return None
    moving = _moving(values)
    for grid in islice(_fitting(len(moving), grids, size), TRIED):
        coded = _values(module, _coded(images, grid), [call], is_over=True)[call]
        spelt = _spelt(coded, moving, grid)
        found = spelt or _followed(values, moving, grid)
        if found is not None and (spelt or _is_in_place(module, image, call, found)):
            return found
    return None


def _is_in_place(module: nn.Module, image: Tensor, call: int, patches: Patches) -> bool:
    """Whether each strip of the image changes the patches where it lies: the patches may cover a part of it."""
    images = strips((image.shape[2], image.shape[3]), image.device)
    values = _values(module, images, [call], is_over=True).get(call)
    return values is not None and is_in_place(
        _map(values, torch.tensor(patches.tokens).view(patches.grid)), CHANNELS_FIRST
    )


def _map(values: Tensor, order: Tensor) -> Tensor:
    """(N, C, down, across) of the tokens in this order (down, across)."""
    return values[:, :, order].movedim(4, 2).flatten(1, 2)


def attends_between_tokens(module: nn.Module, image: Tensor, calls: Sequence[int], patches: Patches) -> bool:
    """Whether the values of these calls follow the image along their keys, and not along their width.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W), for its size.
        calls: Attention calls whose values are as wide as there are tokens.
        patches: Those of the first call.
    """
    images = composites((image.shape[2], image.shape[3]), image.device)
    values = _values(module, images, calls, is_over=False)
    tokens = list(patches.tokens)
    for each in values.values():
        keys, width = each[:, :, tokens], each[..., tokens]
        if abs(contrast(width, ABOVE, 3)) >= contrast(keys, ABOVE, 2):
            return False
    return len(values) == len(calls)


def stand_still(module: nn.Module, image: Tensor, calls: Sequence[int], patches: Patches) -> bool:
    """Whether each patch has the same token in the values of every call.

    The tokens attend to themselves alone meanwhile, so that each still shows its own patch at the last layer.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W), for its size.
        calls: The attention calls that count, each between the same tokens.
        patches: Those of the first call.
    """
    images = composites((image.shape[2], image.shape[3]), image.device)
    coded = torch.cat([images, _coded(images, patches.grid)[2:]])
    values = _values(module, coded, calls, is_over=True, alone=True)
    return len(values) == len(calls) and all(_stands(each, len(images), patches) for each in values.values())


def _stands(values: Tensor, count: int, patches: Patches) -> bool:
    """Whether the values of so many composites, and of the coded ones after them, show the patches in their tokens."""
    moving = _moving(values)
    coded = torch.cat([values[:2], values[count:]])
    found = _spelt(coded, moving, patches.grid) or _followed(values[:count], moving, patches.grid)
    return found == patches


class _Enough(BaseException):
    """Ends a pass. No `Exception`: a model may catch those."""


class _Keep(Capture):
    """Keeps the values of some calls; the pass may end with the last of them."""

    def __init__(self, calls: Sequence[int], *, is_over: bool, alone: bool) -> None:
        super().__init__()
        self.alone = alone
        self.calls = calls
        self.is_over = is_over
        self.values: dict[int, Tensor] = {}

    def applied(self, attention: Tensor) -> Tensor:
        return to_themselves(attention) if self.alone else attention

    def see(self, attention: Tensor, values: Tensor) -> None:
        call = len(self.maps) - 1
        if call in self.calls and values.ndim == 4:
            self.values[call] = _projected(values) if self.alone else values.clone()
        if self.is_over and call >= max(self.calls):
            raise _Enough


def _values(
    module: nn.Module, images: Tensor, calls: Sequence[int], *, is_over: bool, alone: bool = False
) -> dict[int, Tensor]:
    """The values (N, heads, keys, width) of each call that has some for every image."""
    kept: list[dict[int, Tensor]] = []
    # Two at a time: a large model may have no memory for more.
    for pair in torch.split(images, 2):
        seen = _Keep(calls, is_over=is_over, alone=alone)
        # A model may write into its images.
        copy = pair.clone()
        try:
            with torch.no_grad(), seen:
                module(copy)
        except _Enough:
            pass
        kept.append({call: values for call, values in seen.values.items() if len(values) == len(pair)})
    found = set.intersection(*map(set, kept))
    return {call: torch.cat([each[call] for each in kept]) for call in sorted(found)}


def _projected(values: Tensor) -> Tensor:
    """A few random sums of each token's values, (N, 1, tokens, PROJECTED): those of all layers fit into memory."""
    tokens = values.movedim(1, 2).flatten(2)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(tokens.shape[2], PROJECTED, generator=generator)
    return (tokens @ weights.to(tokens)).unsqueeze(1)


def _moving(values: Tensor) -> list[int]:
    """The tokens that are not the same for A and B."""
    change = (values[0] - values[1]).double().square().sum((0, 2))
    moving: list[int] = (change > LEAST_CHANGE * change.max()).nonzero().flatten().tolist()
    return moving


def _fitting(moving: int, seen: Sequence[Grid], size: Grid) -> Iterator[Grid]:
    """The grids that may be: those that were seen, then those of the right number, with the squarest patches first."""
    fitting = [grid for grid in seen if 0 <= moving - grid[0] * grid[1] <= MOST_OTHER_TOKENS]
    exact = [(rows, moving // rows) for rows in range(1, moving + 1) if moving % rows == 0]
    aspects = {grid: size[0] / grid[0] * grid[1] / size[1] for grid in exact}
    squarest = sorted(exact, key=lambda grid: max(aspects[grid], 1 / aspects[grid]))
    yield from dict.fromkeys([*fitting, *squarest])


def _bits(count: int) -> Tensor:
    """A Gray code of each number, (bits, count) of booleans: neighbours differ in one."""
    numbers = torch.arange(count)
    bits = torch.arange((count - 1).bit_length()).unsqueeze(1)
    return ((numbers ^ (numbers >> 1)) >> bits & 1).bool()


def _coded(images: Tensor, grid: Grid) -> Tensor:
    """A, B, and a composite for each bit of the rows and of the columns."""
    height, width = images.shape[2:]
    down = _bits(grid[0])[:, torch.arange(height) * grid[0] // height]
    across = _bits(grid[1])[:, torch.arange(width) * grid[1] // width]
    masks = [*(bit.view(1, -1, 1) for bit in down), *(bit.view(1, 1, -1) for bit in across)]
    first, second = images[:2]
    return torch.stack([first, second, *(torch.where(mask.to(images.device), first, second) for mask in masks)])


def _spelt(values: Tensor, moving: Sequence[int], grid: Grid) -> Patches | None:
    """The patches, if each token spells its place and no two the same."""
    count = grid[0] * grid[1]
    likeness = torch.stack([likenesses(values, image, 2) for image in range(2, len(values))]).cpu()
    margin = (likeness - 0.5).abs().mean(0)
    # A token of all patches, such as their mean, is like neither.
    chosen = sorted(moving, key=lambda token: -float(margin[token]))[:count]
    if len(chosen) < count or margin[chosen].mean() < LEAST_MARGIN:
        return None
    codes = torch.cat([_bits(grid[0]).repeat_interleave(grid[1], 1), _bits(grid[1]).repeat(1, grid[0])])
    spelt = {tuple(code): token for code, token in zip((likeness[:, chosen] > 0.5).T.tolist(), chosen, strict=True)}
    tokens = [spelt.get(tuple(code)) for code in codes.T.tolist()]
    return None if None in tokens else Patches(grid, tuple(token for token in tokens if token is not None))


def _followed(values: Tensor, moving: Sequence[int], grid: Grid) -> Patches | None:
    """The patches, if the tokens follow the image line by line, or column by column."""
    if len(moving) != grid[0] * grid[1]:
        return None
    tokens = torch.tensor(moving)
    for order in (tokens.view(grid), tokens.view(grid[::-1]).T):
        if follows(_map(values, order)) == CHANNELS_FIRST:
            return Patches(grid, tuple(order.flatten().tolist()))
    return None
