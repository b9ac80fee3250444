"""Which attention belongs to which patch: found when a model is loaded, relied on by the attention methods.

A model has attention between all patches where every attention that its logits use is a square over the same tokens,
and the tokens hold a grid of patches, in any order and beside a few others: a class token, a distillation token,
registers. Which token is which patch is found by changing the image (`introspection.patches`). Windows (Swin, MaxViT),
pooled keys, attention between channels and class-attention layers are none, and neither is attention in a form that
cannot be seen. Attention that the logits do not depend on, such as a pooling head beside them, does not count.

The map of a layer has to be all of what that layer does: it is used once, and while each token attends to itself alone
none reaches another (`introspection.isolation`).

The rows that count are those of the tokens that the logits read (`introspection.readers`): the class token's, in a
model that pools its patches all of theirs, both tokens' in a distilled one. Every image and class has the same.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.attention import Capture, capture
from heatmill_workers.engine.introspection.graph import nodes_below, uses
from heatmill_workers.engine.introspection.isolation import mixer_beside
from heatmill_workers.engine.introspection.locality import noise_like
from heatmill_workers.engine.introspection.mixing import MOST_OTHER_TOKENS
from heatmill_workers.engine.introspection.patches import (
    Grid,
    Patches,
    attends_between_tokens,
    find_patches,
    stand_still,
)
from heatmill_workers.engine.introspection.readers import find_readers, read_tokens
from heatmill_workers.engine.machine_faults import raise_machine_fault


@dataclass(frozen=True)
class Tokens:
    """How a transformer's attention is laid out.

    Args:
        layers: Which of its attention calls the logits use, in order.
        calls: How many attention calls there are.
        count: All tokens.
        grid: Patches (down, across).
        patches: The token of each patch, in reading order.
        readout_tokens: Tokens that the logits read, by index.
    """

    layers: tuple[int, ...]
    calls: int
    count: int
    grid: Grid
    patches: tuple[int, ...]
    readout_tokens: tuple[int, ...]


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
        raise_machine_fault(error)
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
    rows = relevance[:, list(tokens.readout_tokens)][:, :, list(tokens.patches)].float().mean(1)
    return rows.reshape(-1, 1, *tokens.grid)


def check_readers(gradients: Tensor, tokens: Tokens) -> None:
    """Refuse images whose targets read other tokens than the logits did when the model was loaded.

    Args:
        gradients: Of each image's target at the last layer's attention, (N, heads, tokens, tokens).
        tokens: The model's.

    Raises:
        UnsupportedOperation: They do; a target without a gradient reads none.
    """
    if any(read and read != frozenset(tokens.readout_tokens) for read in read_tokens(gradients)):
        raise UnsupportedOperation("which tokens the model's logits read depends on the image or the class")


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
    if not image.is_meta and any(uses(get_gradient_edge(each).node, logits.grad_fn) != 1 for each in maps):
        return TokenSearch(None, "it uses the attention of a layer more than once")
    patches = _patches(module, image, seen, layers)
    if patches is None:
        return TokenSearch(None, "its attention is between something else than a grid of patches")
    tokens = Tokens(tuple(layers), len(seen.maps), maps[-1].shape[3], patches.grid, patches.tokens, ())
    # Without values nothing is read.
    return _proved(module, image, tokens) if not image.is_meta else TokenSearch(_with_readers(tokens, ()))


def _proved(module: nn.Module, image: Tensor, tokens: Tokens) -> TokenSearch:
    """The layout with its readers, if the tokens keep to it and reach one another by nothing but the attention."""
    if not stand_still(module, image, tokens.layers, Patches(tokens.grid, tokens.patches)):
        return TokenSearch(None, "its patches do not keep their tokens, in the same order, up to its last layer")
    mixer = mixer_beside(module, image, tokens.grid, tokens.count)
    if mixer:
        return TokenSearch(
            None, f"its tokens reach one another by `{mixer}` too, beside the attention that can be seen"
        )
    readers = find_readers(module, image, tokens.layers[-1])
    if readers.reason:
        return TokenSearch(None, readers.reason)
    return TokenSearch(_with_readers(tokens, readers.tokens))


def _with_readers(tokens: Tokens, read: tuple[int, ...]) -> Tokens:
    """Where nothing is read, as by a head of zeros, the class token stands for it, or else every patch."""
    others = [token for token in range(tokens.count) if token not in tokens.patches]
    return replace(tokens, readout_tokens=read or tuple(others[:1]) or tuple(range(tokens.count)))


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
