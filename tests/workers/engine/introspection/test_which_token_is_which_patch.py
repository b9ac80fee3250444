"""Attention is drawn where its patches lie, wherever their tokens stand in the sequence."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.tokens import search_tokens
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.small import LABELS, loaded, photos

METHODS = ("attention", "attention_rollout", "attention_gradient")
TARGETS = torch.tensor([3, 7])
SIDE, WIDTH = 64, 16
PATCHES = list(range(16))
CLASS = 16

Order = Sequence[int]


class Transformer(nn.Module):
    """Sixteen patches, a class token and registers, in any order; positions are added before that.

    Args:
        order: Token by token, the patch or the extra token (16 and up) that stands there.
        attend: From (N, heads, T, d) queries, keys and values to what they become.
    """

    def __init__(self, order: Order, attend: Callable[..., Tensor] | None = None, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = list(order)
        self.attend = attend or functional.scaled_dot_product_attention
        self.patches = nn.Conv2d(3, WIDTH, 16, 16, bias=bias)
        self.extra = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 16, WIDTH) * bias)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH, bias=bias) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=bias) for _ in range(2))
        self.pool = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, len(LABELS), bias=bias)

    def embedded(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT + self.positions
        return torch.cat([tokens, self.extra.expand(len(images), -1, -1)], 1)[:, self.order]

    def blocks(self, tokens: Tensor) -> Tensor:
        for layer, norm in zip(self.qkv, self.norms, strict=True):
            query, key, value = layer(norm(tokens)).unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
            tokens = tokens + self.attend(query, key, value).transpose(1, 2).flatten(2)
        return tokens

    def read(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.order.index(CLASS)] if CLASS in self.order else tokens.mean(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.read(self.blocks(self.embedded(images))))
        return logits


def explained(method: str, module: nn.Module) -> NDArray[np.float32]:
    entries = explain(method, loaded(module), photos(2), TARGETS, {})
    assert all(isinstance(entry, Explanation) for entry in entries), entries
    return np.stack([entry.attribution for entry in entries if isinstance(entry, Explanation)])


def by_columns(order: Order) -> list[int]:
    return [4 * (place % 4) + place // 4 for place in order]


ORDERS: dict[str, list[int]] = {
    "class token behind": [*PATCHES, CLASS],
    "registers behind": [CLASS, *PATCHES, 17, 18, 19, 20],
    "registers before the class token": [17, 18, CLASS, *PATCHES],
    "extra tokens on both sides": [17, *PATCHES, CLASS, 18],
    "class token in the middle": [*PATCHES[:8], CLASS, *PATCHES[8:]],
    "columns first": [CLASS, *by_columns(PATCHES)],
    "from the end": [CLASS, *reversed(PATCHES)],
    "in another order": [*(5 * place % 16 for place in PATCHES), CLASS],
    "registers in between": [*PATCHES[:3], 17, *PATCHES[3:9], CLASS, 18, *PATCHES[9:]],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ORDERS)
def test_the_heatmap_does_not_depend_on_the_order_of_the_tokens(name: str, method: str) -> None:
    order = ORDERS[name]
    plain = sorted(order, key=lambda token: (token < CLASS, token))

    found, wanted = explained(method, Transformer(order)), explained(method, Transformer(plain))

    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * wanted.max())


def tokens_of(module: nn.Module, height: int = SIDE, width: int = SIDE) -> Any:
    return search_tokens(module.eval().requires_grad_(False), torch.zeros(1, 3, height, width))


class Unfolds(Transformer):
    """Cuts its patches without a convolution, so that no tensor has the grid's shape; thirty-two of them."""

    def __init__(self) -> None:
        super().__init__([*PATCHES, CLASS])
        self.linear, self.positions = nn.Linear(192, WIDTH), nn.Parameter(torch.randn(1, 32, WIDTH))

    def embedded(self, images: Tensor) -> Tensor:
        tokens = self.linear(functional.unfold(images, 8, stride=8).mT) + self.positions
        return torch.cat([tokens, self.extra[:, :1].expand(len(images), -1, -1)], 1)

    def read(self, tokens: Tensor) -> Tensor:
        return tokens[:, -1]


@pytest.mark.parametrize(("size", "grid"), [((32, 64), (4, 8)), ((64, 32), (8, 4)), ((16, 128), (2, 16))])
def test_what_the_grid_is_is_seen_and_not_guessed(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tokens_of(Unfolds(), *size).tokens.grid == grid


def channels(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """XCiT's: between the channels of a head."""
    query, key, value = (each.mT for each in (query, key, value))
    return ((query @ key.mT / 16).softmax(-1) @ value).mT


class AsManyChannels(Transformer):
    """Eight tokens, and heads of eight channels: a matrix of attention that is square either way."""

    def __init__(self, layers: Sequence[bool]) -> None:
        super().__init__(PATCHES[:8])
        self.patches, self.positions = nn.Conv2d(3, WIDTH, (32, 16), (32, 16)), nn.Parameter(torch.randn(1, 8, WIDTH))
        self.between_channels = list(layers)

    def embedded(self, images: Tensor) -> Tensor:
        patches: Tensor = self.patches(images).flatten(2).mT
        return patches + self.positions

    def forward(self, images: Tensor) -> Tensor:
        calls = iter(self.between_channels)
        self.attend = lambda *parts: (
            channels(*parts) if next(calls) else functional.scaled_dot_product_attention(*parts)
        )
        return super().forward(images)


@pytest.mark.parametrize("layers", [(True, True), (False, True), (True, False)])
def test_attention_between_channels_is_none_even_if_they_are_as_many_as_tokens(layers: Sequence[bool]) -> None:
    assert tokens_of(AsManyChannels(layers)).tokens is None
    assert tokens_of(AsManyChannels((False, False))).tokens.grid == (2, 4)


class PoolsBeside(Transformer):
    """A pooling head whose result goes nowhere, or into the logits."""

    def __init__(self, *, is_used: bool) -> None:
        super().__init__(PATCHES)
        self.is_used = is_used

    def read(self, tokens: Tensor) -> Tensor:
        pooled = self.pool(self.extra[:, :1].expand(len(tokens), -1, -1), tokens, tokens)[0][:, 0]
        return pooled if self.is_used else tokens.mean(1)


def test_attention_that_the_logits_do_not_use_is_left_out() -> None:
    for method in METHODS:
        found = explained(method, PoolsBeside(is_used=False))
        np.testing.assert_allclose(found, explained(method, Transformer(PATCHES)), rtol=1e-4, atol=1e-6 * found.max())

    assert tokens_of(PoolsBeside(is_used=True)).tokens is None


def test_a_model_without_biases_tells_its_readers() -> None:
    assert tokens_of(Transformer(PATCHES, bias=False)).tokens.readout_tokens == tuple(PATCHES)


class ConvolutionalTrunk(Transformer):
    """Each patch sees far beyond its own pixels, and a mean of all patches stands before them."""

    def __init__(self) -> None:
        super().__init__(PATCHES)
        self.trunk = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 7, padding=3), nn.Tanh()) for _ in range(4)))

    def embedded(self, images: Tensor) -> Tensor:
        return super().embedded(images + self.trunk(images))


class MeanToken(Transformer):
    def embedded(self, images: Tensor) -> Tensor:
        tokens = super().embedded(images)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


def test_overlapping_patches_and_a_token_of_their_mean_are_told_apart() -> None:
    assert tokens_of(ConvolutionalTrunk()).tokens.patches == tuple(PATCHES)
    assert tokens_of(MeanToken(PATCHES)).tokens.patches == tuple(range(1, 17))


def test_tokens_that_are_no_places_are_refused_and_the_error_says_so() -> None:
    class Random(Transformer):
        def embedded(self, images: Tensor) -> Tensor:
            mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
            return torch.einsum("qp,npc->nqc", mixing, super().embedded(images))

    (entry,) = explain("attention", loaded(Random(PATCHES)), photos(1), TARGETS[:1], {})

    assert isinstance(entry, UnsupportedOperation)
    assert "something else than a grid of patches" in str(entry)


class UnderAutocast(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.inner(images)
        return logits.float()


@pytest.mark.parametrize("method", METHODS)
def test_under_autocast_the_heatmap_is_that_of_full_precision_in_float32(method: str) -> None:
    order = ORDERS["registers behind"]

    found, wanted = explained(method, UnderAutocast(Transformer(order))), explained(method, Transformer(order))

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * wanted.max())


def test_a_search_leaves_no_trace() -> None:
    model: LoadedModel = loaded(Transformer(ORDERS["in another order"]))
    state = torch.get_rng_state()

    search_tokens(model.module, torch.zeros(1, 3, SIDE, SIDE))

    assert torch.get_rng_state().equal(state)


class Moves(Transformer):
    """Crops the image, or gives the tokens another order before the second layer."""

    def __init__(self, crop: int = 0, order: Order | None = None) -> None:
        super().__init__([CLASS, *PATCHES])
        self.crop, self.later = crop, order
        if crop:
            self.patches = nn.Conv2d(3, WIDTH, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        if self.crop:
            images = images[:, :, self.crop : -self.crop, self.crop : -self.crop]
        logits: Tensor = self.head(self.read(self.blocks(self.embedded(images))))
        return logits

    def blocks(self, tokens: Tensor) -> Tensor:
        for layer, norm in zip(self.qkv, self.norms, strict=True):
            query, key, value = layer(norm(tokens)).unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
            tokens = tokens + self.attend(query, key, value).transpose(1, 2).flatten(2)
            if self.later:
                tokens = torch.cat([tokens[:, :1], tokens[:, 1:][:, self.later]], 1)
        return tokens


def test_patches_of_a_part_of_the_image_are_not_drawn_over_the_whole() -> None:
    assert search_tokens(Moves(crop=16).eval().requires_grad_(False), torch.zeros(1, 3, SIDE, SIDE)).tokens is None


@pytest.mark.parametrize("order", [PATCHES[::-1], by_columns(PATCHES), [*PATCHES[5:], *PATCHES[:5]]])
def test_tokens_that_are_reordered_between_layers_are_refused(order: Order) -> None:
    nothing = search_tokens(Moves(order=order).eval().requires_grad_(False), torch.zeros(1, 3, SIDE, SIDE))

    assert nothing.tokens is None
    assert "same order" in nothing.reason


def transposed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (key @ query.mT).softmax(-2).mT @ value


def squared(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention = (query @ key.mT).softmax(-1)
    return attention @ (attention @ value)


def backwards(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key.flip(2), value.flip(2))


@pytest.mark.parametrize("attend", [transposed, squared, backwards])
def test_attention_that_is_applied_otherwise_than_it_is_seen_is_refused(attend: Callable[..., Tensor]) -> None:
    module = Transformer([CLASS, *PATCHES], attend).eval().requires_grad_(False)

    assert search_tokens(module, torch.zeros(1, 3, SIDE, SIDE)).tokens is None
