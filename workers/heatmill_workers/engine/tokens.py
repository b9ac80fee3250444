"""Which attention belongs to which patch: found when a model is loaded, relied on by the attention methods.

A model has attention between all patches where every attention that its logits use is a square over the same tokens,
and the tokens hold a grid of patches, in any order and beside a few others: a class token, a distillation token,
registers. Which token is which patch is found by changing the image (`introspection.patches`). Windows (Swin, MaxViT),
pooled keys, attention between channels and class-attention layers are none, and neither is attention in a form that
cannot be seen. Attention that the logits do not depend on, such as a pooling head beside them, does not count.

The rows that count are those of the tokens that the logits read, known from the gradient at the last layer: the class
token's, in a model that pools its patches all of theirs, both tokens' in a distilled one.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.attention import Capture, capture
from heatmill_workers.engine.introspection.graph import nodes_below
from heatmill_workers.engine.introspection.locality import noise_like
from heatmill_workers.engine.introspection.mixing import MOST_OTHER_TOKENS
from heatmill_workers.engine.introspection.patches import (
    Grid,
    Patches,
    attends_between_tokens,
    find_patches,
    stand_still,
)


@dataclass(frozen=True)
class Tokens:
    """How a transformer's attention is laid out.

    Args:
        layers: Which of its attention calls the logits use, in order.
        calls: How many attention calls there are.
        count: All tokens.
        grid: Patches (down, across).
        patches: The token of each patch, in reading order.
        readers: Tokens that the logits read, by index.
    """

    layers: tuple[int, ...]
    calls: int
    count: int
    grid: Grid
    patches: tuple[int, ...]
    readers: tuple[int, ...]


@dataclass(frozen=True)
class TokenSearch:
    """What was found: the layout, or in words why there is none."""

    tokens: Tokens | None
    reason: str = ""


class _Probe(Capture):
    """Notes which calls weight values that are as wide as there are keys."""

    def __init__(self) -> None:
        super().__init__(differentiable=True)
        self.ambiguous: list[int] = []

    def see(self, attention: Tensor, values: Tensor) -> None:
        if values.shape[-1] == values.shape[-2]:
            self.ambiguous.append(len(self.maps) - 1)


def find_tokens(module: nn.Module, image: Tensor) -> Tokens | None:
    """`search_tokens`, without the reason."""
    return search_tokens(module, image).tokens


def search_tokens(module: nn.Module, image: Tensor) -> TokenSearch:
    """The layout of the model's attention; none where it does not attend between all patches.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W); its values do not matter. On the meta device `patches` and `readers` are guesses.
    """
    try:
        with torch.enable_grad():
            # A graph from the image on tells which attention the logits use.
            copy = noise_like(image).detach().clone().requires_grad_().clone()
            with _Probe() as seen:
                logits = module(copy)
            return _laid_out(module, image, logits, seen)
    except RuntimeError as error:
        return TokenSearch(None, f"the model cannot be differentiated: {error}")


def attention_maps(
    module: nn.Module, images: Tensor, tokens: Tokens, *, differentiable: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Logits (N, K), and the attention (N, heads, tokens, tokens) of each layer, in the model's own precision.

    Raises:
        UnsupportedOperation: The model attends otherwise than when it was probed.
    """
    logits, seen = capture(module, images, differentiable=differentiable)
    maps = [seen.maps[call] for call in tokens.layers] if len(seen.maps) == tokens.calls else []
    found = [each for each in maps if each is not None]
    wanted = (len(images), tokens.count, tokens.count)
    if len(found) != len(tokens.layers) or any((len(each), *each.shape[2:]) != wanted for each in found):
        raise UnsupportedOperation("the model attends differently for different images")
    return logits, found


def on_the_grid(relevance: Tensor, tokens: Tokens) -> Tensor:
    """The patches' part of what the logits' tokens take in: (N, tokens, tokens) to (N, 1, down, across), float32."""
    rows = relevance[:, list(tokens.readers)][:, :, list(tokens.patches)].float().mean(1)
    return rows.reshape(-1, 1, *tokens.grid)


def _laid_out(module: nn.Module, image: Tensor, logits: Tensor, seen: _Probe) -> TokenSearch:
    # Without a gradient nobody knows which tokens the logits read.
    if not logits.requires_grad or not seen.maps:
        return TokenSearch(None, "" if seen.maps else "it does not attend")
    layers = _used(seen, logits)
    maps = _squares([seen.maps[call] for call in layers])
    if not maps:
        return TokenSearch(None, "its attention is not between the same tokens in every layer, or cannot be seen")
    if not _follow_one_another(maps):
        return TokenSearch(None, "its layers of attention do not follow one another")
    patches = _patches(module, image, seen, layers)
    if patches is None:
        return TokenSearch(None, "its attention is between something else than a grid of patches")
    if not image.is_meta and not stand_still(module, image, layers, patches):
        return TokenSearch(None, "its patches do not keep their tokens, in the same order, up to its last layer")
    count = maps[-1].shape[3]
    readers = _readers(_gradients(logits, maps[-1]), patches, count)
    return TokenSearch(Tokens(tuple(layers), len(seen.maps), count, patches.grid, patches.tokens, readers))


def _used(seen: Capture, logits: Tensor) -> list[int]:
    """The attention calls that the logits depend on. A call without a graph may be one of them."""
    nodes = set(nodes_below(logits.grad_fn))
    return [call for call, out in enumerate(seen.outputs) if out.grad_fn is None or out.grad_fn in nodes]


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


def _patches(module: nn.Module, image: Tensor, seen: _Probe, layers: list[int]) -> Patches | None:
    first = seen.maps[layers[0]]
    if image.is_meta and first is not None:
        return _assumed(first.shape[3], seen.grids)
    found = find_patches(module, image, layers[0], seen.grids)
    ambiguous = [call for call in layers if call in seen.ambiguous]
    if found is None or not ambiguous or attends_between_tokens(module, image, ambiguous, found):
        return found
    return None


def _assumed(count: int, grids: list[Grid]) -> Patches | None:
    """Without values: the first grid that fits, behind the other tokens."""
    fitting = (grid for grid in grids if 0 <= count - grid[0] * grid[1] <= MOST_OTHER_TOKENS)
    grid = next(fitting, None)
    return None if grid is None else Patches(grid, tuple(range(count - grid[0] * grid[1], count)))


def _gradients(logits: Tensor, last: Tensor) -> Tensor | None:
    # Unequal weights: the logits of a head may sum to a constant.
    mixed = (logits * torch.arange(1, logits.shape[1] + 1, device=logits.device)).sum()
    (gradients,) = torch.autograd.grad(mixed, last, allow_unused=True)
    return gradients


def _readers(gradients: Tensor | None, patches: Patches, count: int) -> tuple[int, ...]:
    if gradients is not None and not gradients.is_meta:
        read = gradients.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
        if read:
            return tuple(read)
    # Without values, or with a head of zeros, nothing is read: the class token stands for it, or else every patch.
    others = [token for token in range(count) if token not in patches.tokens]
    return tuple(others[:1]) or tuple(range(count))
