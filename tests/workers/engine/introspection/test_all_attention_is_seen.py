"""An attention map is drawn only if it is all of what the model attends by."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.attention import as_product
from heatmill_workers.engine.introspection.tokens import TokenSearch, search_tokens
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.engine.introspection.test_which_token_is_which_patch import (
    CLASS,
    PATCHES,
    SIDE,
    WIDTH,
    Transformer,
)
from tests.workers.small import loaded, photos

Attend = Callable[..., Tensor]
ORDER = [CLASS, *PATCHES]
REGISTERS = [CLASS, 17, 18, *PATCHES]


class Layers(Transformer):
    """Three layers that each attend in their own way."""

    def __init__(self, attends: Sequence[Attend], order: Sequence[int] = ORDER) -> None:
        super().__init__(order)
        torch.manual_seed(1)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in attends)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in attends)
        self.attends = attends

    def blocks(self, tokens: Tensor) -> Tensor:
        calls = iter(self.attends)

        def attend(*parts: Tensor) -> Tensor:
            return next(calls)(*parts)

        self.attend = attend
        return super().blocks(tokens)


def found(module: nn.Module) -> TokenSearch:
    return search_tokens(module.eval().requires_grad_(False), torch.zeros(1, 3, SIDE, SIDE))


def scores(query: Tensor, key: Tensor) -> Tensor:
    return torch.matmul(query, key.mT) / sqrt(query.shape[-1])


def seen(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value)


def by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = (scores(query, key) - scores(query, key).amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True) @ value


def special(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights: Tensor = torch.special.softmax(scores(query, key), -1)
    return weights @ value


def by_logarithms(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scores(query, key).log_softmax(-1).exp() @ value


def softmin(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.softmin(-scores(query, key), -1) @ value


def sigmoid(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scores(query, key).sigmoid() / key.shape[2] @ value


def of_aten(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten.scaled_dot_product_attention(query, key, value)
    return out


def linear(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.matmul(query.sigmoid(), key.sigmoid().mT @ value) / key.shape[2]


def from_a_moving_sum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return value.cumsum(2) / value.shape[2]


def of_the_class_token(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended = scores(query[:, :, :1], key).sigmoid() / 9 @ value
    return torch.cat([attended, value[:, :, 1:]], 2)


def among_neighbours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A convolution by weights of the image's own."""
    weights = (scores(query, key).sigmoid() / key.shape[2]).flatten(0, 2).unsqueeze(2)
    folded = value.reshape(1, -1, value.shape[3])
    return functional.conv1d(folded, weights, groups=len(value) * value.shape[1]).view_as(value)


def of_the_largest(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return value + value.amax(2, keepdim=True)


class _Kernel(torch.autograd.Function):
    """Stands for a kernel of one's own: no function of torch is called on the tokens."""

    @staticmethod
    def forward(context: Any, *parts: Tensor) -> Tensor:
        query, key, value = (part.numpy(force=True) for part in parts)
        return torch.from_numpy(query @ key.swapaxes(-2, -1) / key.shape[2] @ value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients * 3


def of_a_kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = _Kernel.apply(query, key, value)
    return out


UNSEEN = [
    by_hand,
    special,
    by_logarithms,
    softmin,
    sigmoid,
    of_aten,
    linear,
    from_a_moving_sum,
    of_a_kernel,
    of_the_class_token,
    among_neighbours,
    of_the_largest,
]


@pytest.mark.parametrize("attend", UNSEEN)
def test_a_layer_whose_attention_cannot_be_seen_is_not_left_out_silently(attend: Attend) -> None:
    for place, order in ((0, PATCHES), (1, ORDER), (2, ORDER), (2, PATCHES)):
        layers = [seen, seen, seen]
        layers[place] = attend
        nothing = found(Layers(layers, order))
        assert nothing.tokens is None
        assert "reach one another" in nothing.reason or "same order" in nothing.reason


def test_the_error_says_what_lets_tokens_reach_one_another() -> None:
    (entry,) = explain("attention", loaded(Layers([seen, seen, softmin])), photos(1), torch.tensor([3]), {})

    assert isinstance(entry, UnsupportedOperation)
    assert "its tokens reach one another by `softmin` too" in str(entry)


def scaled_by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Takes from each row its largest score, as a softmax does."""
    found = scores(query, key)
    return (found - found.amax(-1, keepdim=True)).softmax(-1) @ value


class Around(Layers):
    """Something before, behind or in between that is no attention."""

    def __init__(self, around: str, order: Sequence[int] = ORDER) -> None:
        super().__init__([seen, scaled_by_hand], order)
        self.around = around
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 5, padding=2), nn.GroupNorm(1, 3), nn.ReLU(), nn.AvgPool2d(3, 1, 1))
        self.local = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def embedded(self, images: Tensor) -> Tensor:
        images = (images - 0.1) / 0.5 if self.around == "normalised" else images
        return super().embedded(images + self.stem(images) if self.around == "stem" else images)

    def blocks(self, tokens: Tensor) -> Tensor:
        tokens = super().blocks(tokens)
        if self.around == "local":
            places = tokens[:, -16:].mT.reshape(len(tokens), WIDTH, 4, 4)
            near = self.local(places).flatten(2).mT
            return torch.cat([tokens[:, :-16], tokens[:, -16:] + near], 1)
        if self.around == "sequence first":
            return (tokens.transpose(0, 1) * 1.5).transpose(0, 1)
        return tokens.flatten(0, 1).relu().view(tokens.shape) if self.around == "flattened" else tokens

    def read(self, tokens: Tensor) -> Tensor:
        return super().read(tokens).sigmoid() if self.around == "gated" else super().read(tokens)


@pytest.mark.parametrize("around", ["", "normalised", "stem", "local", "sequence first", "flattened", "gated"])
def test_what_reaches_neighbours_or_all_tokens_alike_is_no_attention(around: str) -> None:
    for order in (ORDER, REGISTERS, PATCHES):
        assert found(Around(around, order)).tokens is not None


class PooledByHand(Layers):
    """Weights of its own for each token and image, as wide as there may be tokens."""

    def read(self, tokens: Tensor) -> Tensor:
        return (tokens[..., 0].softmax(1).unsqueeze(1) @ tokens)[:, 0]


def test_a_pool_that_attends_is_attention_that_cannot_be_seen() -> None:
    assert "reach one another" in found(PooledByHand([seen, seen])).reason


def again(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention = scores(query, key).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", attention, attention @ value)


def a_copy_again(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention = scores(query, key).softmax(-1)
    out = attention @ value
    return out - torch.matmul(attention.clone(), out) * 0.9


def by_parts_again(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention = scores(query, key).softmax(-1)
    out = attention @ value
    return out + sum(attention[..., key, None] * out[:, :, key, None] for key in range(2))


def as_a_gate_too(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention = scores(query, key).softmax(-1)
    return attention @ value * attention.amax(-1, keepdim=True)


@pytest.mark.parametrize("attend", [again, a_copy_again, by_parts_again, as_a_gate_too])
def test_attention_that_is_used_again_is_refused(attend: Attend) -> None:
    for layers in ([seen, attend], [attend, seen]):
        reason = found(Layers(layers)).reason
        assert "more than once" in reason or (attend is again and "cannot be seen" in reason)


def weights_of(query: Tensor, key: Tensor) -> Tensor:
    return (torch.einsum("bhqd,bhkd->bhqk", query, key) / sqrt(query.shape[-1])).softmax(-1)


def by_letters(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("b h i j, b h j d -> b h i d", weights_of(query, key), value)


def by_dots(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("...ij,...jd->...id", [weights_of(query, key), value])


def heads_behind(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("bhij,bjhd->bihd", weights_of(query, key), value.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("attend", [by_letters, by_dots, heads_behind])
def test_a_product_that_is_written_as_a_sum_over_indices_is_seen(attend: Attend) -> None:
    for method in ("attention", "attention_rollout", "attention_gradient"):
        wanted, answers = (
            explain(method, loaded(Layers(layers)), photos(2), torch.tensor([3, 7]), {})
            for layers in ([seen, seen], [attend, attend])
        )
        for right, answer in zip(wanted, answers, strict=True):
            assert isinstance(right, Explanation)
            assert isinstance(answer, Explanation)
            np.testing.assert_allclose(answer.attribution, right.attribution, rtol=1e-4, atol=1e-6)


def without_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The first half of the values by the first head's weights alone, in three dimensions."""
    weights = functional.softmax(torch.bmm(query[:, 0], key[:, 0].transpose(1, 2)) / sqrt(query.shape[-1]), dim=2)
    return torch.bmm(weights, value.transpose(1, 2).flatten(2)).reshape(value.transpose(1, 2).shape).transpose(1, 2)


def with_one_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same, seen as all others."""
    attended: Tensor = functional.scaled_dot_product_attention(
        query[:, :1], key[:, :1], value.transpose(1, 2).flatten(2).unsqueeze(1)
    )
    return attended[:, 0].reshape(value.transpose(1, 2).shape).transpose(1, 2)


def test_one_head_without_an_axis_is_seen() -> None:
    for method in ("attention", "attention_rollout", "attention_gradient"):
        wanted, answers = (
            explain(method, loaded(Layers(layers)), photos(2), torch.tensor([3, 7]), {})
            for layers in ([with_one_head] * 2, [without_heads] * 2)
        )
        for right, answer in zip(wanted, answers, strict=True):
            assert isinstance(right, Explanation)
            assert isinstance(answer, Explanation)
            np.testing.assert_allclose(answer.attribution, right.attribution, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "equation",
    ["bhij,bhid->bhjd", "bhij,bhjd->bhi", "bhij,bhjd->bid", "bhij,bhjd,b->bhid", "ij,jd->id", "bhij,bhjd"],
)
def test_another_sum_over_indices_is_no_product_with_the_values(equation: str) -> None:
    operands = [torch.rand([2] * len(each)) for each in equation.partition("->")[0].split(",")]
    assert as_product(equation, *operands) is None
