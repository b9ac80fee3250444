"""Rules for softmax, and for attention, which is made of it and of products."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, rule

PATH_POINTS = 8
# In the place of -inf, whose differences are not numbers.
MASKED = -1e9
SMALLEST_SUM = 1e-12


@rule("softmax")
def softmax(function: Function, source: Pair, dim: int | None = None, *_: Any, **__: Any) -> Any:
    """exp(log softmax): the exponents are at most 0, so nothing overflows."""
    return torch.exp(torch.log_softmax(source, _known(dim)))


@rule("log_softmax")
def log_softmax(function: Function, source: Pair, dim: int | None = None, *_: Any, **__: Any) -> Any:
    """X - logsumexp(x)."""
    value, baseline = (side.logsumexp(_known(dim), keepdim=True) for side in (source.image.detach(), source.baseline))
    weights = _mean_softmax(source, _known(dim), value.double() - baseline.double())
    total = (source.image * weights).sum(_known(dim), keepdim=True)
    return source - Pair(multiplied(total, value), baseline)


@rule("scaled_dot_product_attention", pairs=("query", "key", "value", "attn_mask"))
def scaled_dot_product_attention(
    function: Function, query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any
) -> Any:
    """softmax(q k^T) v."""
    scale = options.pop("scale", None)
    _refuse("scaled_dot_product_attention", options)
    scores = torch.matmul(query * (scale or query.shape[-1] ** -0.5), key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores + _additive(attn_mask, scores.dtype)
    return torch.matmul(torch.softmax(scores, -1), value)


@rule("multi_head_attention_forward", pairs=("query", "key", "value"))
def multi_head_attention(function: Function, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:
    """`nn.MultiheadAttention` without masks: (L, N, E) to (L, N, E), and no weights."""
    dim, heads, in_weight, in_bias, bias_k, bias_v, zeros, _, out_weight, out_bias = args
    ignored = {"training", "need_weights", "average_attn_weights"}
    given = {name: option for name, option in options.items() if name not in ignored}
    _refuse("multi_head_attention_forward", {"bias_k": bias_k, "bias_v": bias_v, "add_zero_attn": zeros, **given})
    length, batch, _ = query.shape
    biases = in_bias.chunk(3) if in_bias is not None else (None,) * 3
    split = [
        functional.linear(side, weight, bias).reshape(len(side), batch * heads, dim // heads).transpose(0, 1)
        for side, weight, bias in zip((query, key, value), in_weight.chunk(3), biases, strict=True)
    ]
    mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2])
    return functional.linear(mixed.transpose(0, 1).reshape(length, batch, dim), out_weight, out_bias), None


def _mean_softmax(source: Pair, dim: int, change_of_sum: Tensor) -> Tensor:
    """The gradient of logsumexp on the path, its mean; scaled so that it adds up to the change exactly."""
    with torch.no_grad():
        change = torch.nan_to_num(source.image - source.baseline, nan=0.0)
        points, shares = np.polynomial.legendre.leggauss(PATH_POINTS)
        mean = torch.zeros_like(change)
        for point, share in zip((1 + points) / 2, shares / 2, strict=True):
            mean += float(share) * (source.baseline + float(point) * change).softmax(dim)
        weights, change = mean.double(), change.double()
        moved = (weights * change.abs()).sum(dim, keepdim=True)
        missing = change_of_sum - (weights * change).sum(dim, keepdim=True)
        # What the quadrature misses, shared out in proportion to what each value moves.
        share_out = torch.where(moved > SMALLEST_SUM, missing / moved.clamp_min(SMALLEST_SUM), 0)
        return (weights * (1 + share_out * change.sign())).to(source.image.dtype)


def _known(dim: int | None) -> int:
    if dim is None:
        raise UnsupportedOperation("the model computes `softmax` without a dim")
    return dim


def _additive(mask: Any, dtype: torch.dtype) -> Any:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, MASKED)
    return mask.clamp_min(MASKED)


def _refuse(name: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        if value is not None and value is not False and value != 0:
            raise UnsupportedOperation(f"the model computes `{name}` with {option}")
