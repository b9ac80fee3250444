"""Attention is seen in every form that it takes, and a model computes what it always did."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill_workers.engine.introspection.attention import capture
from tests.workers.small import photos
from tests.workers.vits import FAMILIES

TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Fused(nn.Module):
    """`scaled_dot_product_attention` of 2 heads with itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, tokens: Tensor) -> Tensor:
        heads = tokens.view(*tokens.shape[:2], 2, 4).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads, heads, heads, **self.options)


class Explicit(nn.Module):
    """A softmax of its own, and something between it and the values."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.between = between

    def forward(self, tokens: Tensor) -> Tensor:
        heads = tokens.view(*tokens.shape[:2], 2, 4).transpose(1, 2)
        attention: Tensor = self.between((heads @ heads.mT).softmax(-1))
        return attention @ heads


class Halved(nn.Module):
    """Stands for a gate."""

    def forward(self, attention: Tensor) -> Tensor:
        return attention * 0.5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("differentiable", [False, True])
def test_the_logits_stay_what_they_are(family: str, differentiable: bool) -> None:
    model = FAMILIES[family][0]()

    with torch.set_grad_enabled(differentiable):
        logits, seen = capture(model.module, photos(2), differentiable=differentiable)

    torch.testing.assert_close(logits.detach(), model.module(photos(2)), rtol=1e-4, atol=1e-5)
    assert all(each is not None and each.requires_grad is differentiable for each in seen.maps)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.linspace(-2, 2, 25).view(5, 5)},
        {"is_causal": True},
    ],
    ids=["plain", "scale", "mask", "bias", "causal"],
)
def test_fused_attention_is_computed_as_torch_does(options: dict[str, Any]) -> None:
    out, seen = capture(Fused(**options), TOKENS)

    torch.testing.assert_close(out, Fused(**options)(TOKENS))
    (attention,) = seen.maps
    assert attention is not None
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 5))


def test_what_is_not_computed_here_is_left_to_torch_and_counts_as_unseen() -> None:
    out, seen = capture(Fused(dropout_p=1e-9), TOKENS)

    torch.testing.assert_close(out, Fused(dropout_p=1e-9)(TOKENS))
    assert seen.maps == [None]


def test_heads_of_queries_that_share_keys_and_values_are_computed_as_torch_does() -> None:
    class Shared(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            query, key = (tokens[..., :width].reshape(2, 5, -1, 2).transpose(1, 2) for width in (8, 4))
            return functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    out, seen = capture(Shared(), TOKENS)

    torch.testing.assert_close(out, Shared()(TOKENS))
    (attention,) = seen.maps
    assert attention is not None
    assert attention.shape == (2, 4, 5, 5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("averaged", [True, False])
def test_multi_head_attention_returns_the_weights_that_it_is_asked_for(bias: bool, averaged: bool) -> None:
    torch.manual_seed(0)
    inner = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True).eval().requires_grad_(False)

    class Asks(nn.Module):
        def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = inner(tokens, tokens, tokens, average_attn_weights=averaged)
            return found

    found, seen = capture(Asks(), TOKENS)

    torch.testing.assert_close(found, Asks()(TOKENS))
    (attention,) = seen.maps
    assert attention is not None
    torch.testing.assert_close(found[1], attention.mean(1) if averaged else attention)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 8, "vdim": 4}])
def test_a_multi_head_attention_of_another_form_counts_as_unseen(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    inner = nn.MultiheadAttention(8, 2, **options, batch_first=True).eval().requires_grad_(False)
    value = TOKENS[..., : options.get("vdim", 8)]

    class Calls(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            out: Tensor = inner(tokens, tokens, value)[0]
            return out

    out, seen = capture(Calls(), TOKENS)

    torch.testing.assert_close(out, Calls()(TOKENS))
    assert seen.maps == [None]


def test_the_fast_path_of_torchs_own_encoder_is_not_taken() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)

    with torch.no_grad():
        out, seen = capture(layer, TOKENS)
        torch.testing.assert_close(out, layer(TOKENS))

    assert [None if each is None else each.shape for each in seen.maps] == [(2, 2, 5, 5)]


@pytest.mark.parametrize(("between", "is_seen"), [(nn.Dropout(0.5), True), (Halved(), False)])
def test_a_softmax_is_attention_if_the_values_are_multiplied_with_it(between: nn.Module, is_seen: bool) -> None:
    _, seen = capture(Explicit(between).eval(), TOKENS)

    assert [each is not None for each in seen.maps] == [is_seen]
