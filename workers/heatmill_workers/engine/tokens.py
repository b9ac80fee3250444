"""Which attention belongs to which patch: found when a model is loaded, relied on by the attention methods.

A model has attention between all patches where every attention of a forward pass is a square over the same tokens, and
the tokens are a grid of patches behind a few others: a class token, a distillation token, registers. Windows (Swin,
MaxViT), pooled keys and class-attention layers are none, and neither is attention in a form that cannot be seen.

The rows that count are those of the tokens that the logits read, known from the gradient at the last layer: the class
token's, in a model that pools its patches all of theirs, both tokens' in a distilled one.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.attention import capture

MOST_OTHER_TOKENS = 16


@dataclass(frozen=True)
class Tokens:
    """How a transformer's attention is laid out.

    Args:
        layers: How many times it attends.
        grid: Patches (down, across), in reading order.
        others: Tokens before the patches.
        readers: Tokens that the logits read, by index.
    """

    layers: int
    grid: tuple[int, int]
    others: int
    readers: tuple[int, ...]

    @property
    def count(self) -> int:
        """All tokens."""
        return self.others + self.grid[0] * self.grid[1]


def find_tokens(module: nn.Module, image: Tensor) -> Tokens | None:
    """The layout of the model's attention; None where it does not attend between all patches.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W); its values do not matter. On the meta device `readers` is a guess.
    """
    with torch.enable_grad():
        logits, seen = capture(module, image, differentiable=True)
        maps = _squares(seen.maps)
        # Without a gradient nobody knows which tokens the logits read.
        if not maps or not logits.requires_grad or not _follow_one_another(maps):
            return None
        count, last = maps[-1].shape[3], maps[-1]
        # The first that fits: later ones may be heads that happen to have as many values.
        grid = next((each for each in seen.grids if 0 <= count - each[0] * each[1] <= MOST_OTHER_TOKENS), None)
        if grid is None:
            return None
        # Unequal weights: the logits of a head may sum to a constant.
        mixed = (logits * torch.arange(1, logits.shape[1] + 1, device=logits.device)).sum()
        (gradients,) = torch.autograd.grad(mixed, last, allow_unused=True)
    others = count - grid[0] * grid[1]
    return Tokens(len(maps), grid, others, _readers(gradients, others, count))


def attention_maps(
    module: nn.Module, images: Tensor, tokens: Tokens, *, differentiable: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Logits (N, K), and the attention (N, heads, tokens, tokens) of each layer.

    Raises:
        UnsupportedOperation: The model attends otherwise than when it was probed.
    """
    logits, seen = capture(module, images, differentiable=differentiable)
    maps = [each for each in seen.maps if each is not None]
    wanted = (len(images), tokens.count, tokens.count)
    if len(maps) != tokens.layers or any((len(each), *each.shape[2:]) != wanted for each in maps):
        raise UnsupportedOperation("the model attends differently for different images")
    return logits, maps


def on_the_grid(relevance: Tensor, tokens: Tokens) -> Tensor:
    """The patches' part of what the logits' tokens take in: (N, tokens, tokens) to (N, 1, down, across)."""
    rows = relevance[:, list(tokens.readers), tokens.others :].mean(1)
    return rows.reshape(-1, 1, *tokens.grid)


def _squares(maps: list[Tensor | None]) -> list[Tensor]:
    """The maps, if all are of one image and between the same tokens; else none."""
    found = [each for each in maps if each is not None and len(each) == 1 and each.shape[2] == each.shape[3]]
    return found if len(found) == len(maps) and len({each.shape[3] for each in found}) == 1 else []


def _follow_one_another(maps: list[Tensor]) -> bool:
    """Whether each layer's attention depends on the one before; two that are added or subtracted make one layer."""
    return all(
        torch.autograd.grad(above.sum(), below, retain_graph=True, allow_unused=True)[0] is not None
        for below, above in pairwise(maps)
    )


def _readers(gradients: Tensor | None, others: int, count: int) -> tuple[int, ...]:
    if gradients is not None and not gradients.is_meta:
        read = gradients.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
        if read:
            return tuple(read)
    # Without values, or with a head of zeros, nothing is read: the class token stands for it, or else every patch.
    return (0,) if others else tuple(range(count))
