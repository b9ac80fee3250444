"""Rules for softmax, and for attention, which is made of it and of products."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Pair, multiplied
from heatmill_workers.engine.deeplift.register import Function, rule

PATH_POINTS = 8
# In the place of -inf, whose differences are not numbers.
MASKED = -1e9
# Of a sum in float64: what moves less is not told from rounding.
SMALLEST_SHARE = 1e-12


@rule("softmax", "special_softmax")
def softmax(function: Function, source: Any, dim: int | None = None, *args: Any, **options: Any) -> Any:
    """exp(log softmax): the exponents are at most 0, so nothing overflows, and large values cost no digits."""
    return torch.exp(torch.log_softmax(_typed(source, (*args, options.get("dtype"))), _known(dim, source)))


@rule("softmin")
def softmin(function: Function, source: Any, dim: int | None = None, *args: Any, **options: Any) -> Any:
    """Of the opposites."""
    return torch.softmax(-_typed(source, (*args, options.get("dtype"))), _known(dim, source))


@rule("log_softmax", "special_log_softmax")
def log_softmax(function: Function, source: Any, dim: int | None = None, *args: Any, **options: Any) -> Any:
    """X - logsumexp(x), with values as torch computes them: beside a large sum, a difference would be rounding."""
    given, along = _typed(source, (*args, options.get("dtype"))), _known(dim, source)
    value, baseline = (side.log_softmax(along) for side in (given.image.detach(), given.baseline))
    weights = _mean_softmax(given, (value, baseline), [along])
    stand_in = given.image - (given.image * weights).sum(along, keepdim=True)
    return Pair(multiplied(stand_in, value), baseline)


@rule("logsumexp", "special_logsumexp")
def logsumexp(function: Function, source: Pair, dim: Any, keepdim: bool = False) -> Any:
    """Each value counts by its mean softmax."""
    dims = list(dim) if isinstance(dim, (list, tuple)) else [dim]
    sides_of = (source.image.detach(), source.baseline)
    value, baseline = (side.logsumexp(dims, keepdim=True) for side in sides_of)
    logs = tuple(side - total for side, total in zip(sides_of, (value, baseline), strict=True))
    total = (source.image * _mean_softmax(source, logs, dims)).sum(dims, keepdim=True)
    found: Any = Pair(multiplied(total, value), baseline)
    return found if keepdim else found.squeeze(dims)


@rule("glu")
def glu(function: Function, source: Any, dim: int = -1) -> Any:
    """One half times the sigmoid of the other."""
    values, gates = source.chunk(2, dim)
    return values * gates.sigmoid()


@rule("scaled_dot_product_attention", pairs=("query", "key", "value", "attn_mask"))
def scaled_dot_product_attention(
    function: Function, query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any
) -> Any:
    """softmax(q k^T) v."""
    scale = options.pop("scale", None)
    if options.pop("is_causal", False):
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        attn_mask = seen.tril()
    _refuse("scaled_dot_product_attention", options)
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scale is None else scale), key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores + _additive(attn_mask, scores.dtype)
    return torch.matmul(torch.softmax(scores, -1), value)


@rule("multi_head_attention_forward", pairs=("query", "key", "value"))
def multi_head_attention(function: Function, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:
    """`nn.MultiheadAttention` without masks: (L, N, E) to (L, N, E), and the weights where they are wanted."""
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
    attention: Any = torch.softmax(torch.matmul(split[0] * (dim // heads) ** -0.5, split[1].transpose(-2, -1)), -1)
    mixed: Any = torch.matmul(attention, split[2])
    out = functional.linear(mixed.transpose(0, 1).reshape(length, batch, dim), out_weight, out_bias)
    if not options.get("need_weights", True):
        return out, None
    of_heads = attention.view(batch, heads, *attention.shape[1:])
    return out, of_heads.mean(1) if options.get("average_attn_weights", True) else of_heads


def _mean_softmax(source: Pair, logs: tuple[Tensor, ...], dims: list[int]) -> Tensor:
    """The gradient of logsumexp on the path, its mean; scaled so that it adds up to the change exactly.

    Args:
        source: The values x.
        logs: Their log softmax on both sides: the same path but for a constant, which softmax does not see.
        dims: Those that are summed over.
    """
    with torch.no_grad():
        mean = _mean_on_the_path(logs, dims).double()
        sums = [side.double().logsumexp(dims, keepdim=True) for side in (source.image, source.baseline)]
        change = torch.nan_to_num(source.image.double() - source.baseline, nan=0.0)
        moved = (mean * change.abs()).sum(dims, keepdim=True)
        missing = torch.nan_to_num(sums[0] - sums[1], nan=0.0) - (mean * change).sum(dims, keepdim=True)
        # What the quadrature misses, shared out in proportion to what each value moves.
        told = moved > SMALLEST_SHARE * sums[0].abs().clamp_min(1)
        share_out = torch.where(told, missing / torch.where(told, moved, 1), 0)
        return (mean * (1 + share_out * change.sign())).to(source.image.dtype)


def _mean_on_the_path(logs: tuple[Tensor, ...], dims: list[int]) -> Tensor:
    end, start = logs
    change = torch.nan_to_num(end - start, nan=0.0)
    points, shares = np.polynomial.legendre.leggauss(PATH_POINTS)
    mean = torch.zeros_like(change)
    for point, share in zip((1 + points) / 2, shares / 2, strict=True):
        mean += float(share) * _softmax(start + float(point) * change, dims)
    return mean


def _softmax(values: Tensor, dims: list[int]) -> Tensor:
    if len(dims) == 1:
        return values.softmax(dims[0])
    return torch.nan_to_num((values - values.logsumexp(dims, keepdim=True)).exp(), nan=0.0)


def _typed(source: Any, options: tuple[Any, ...]) -> Any:
    """In the precision that is asked for; torch takes it by name, or behind other options."""
    wanted = [option for option in options if isinstance(option, torch.dtype)]
    return source.to(wanted[0]) if wanted else source


def _known(dim: int | None, source: Any) -> int:
    """As torch guesses where none is given."""
    return dim if dim is not None else int(source.ndim not in {0, 1, 3})


def _additive(mask: Any, dtype: torch.dtype) -> Any:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, MASKED)
    return mask.clamp_min(MASKED)


def _refuse(name: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        if isinstance(value, Tensor) or value not in {None, False}:
            raise UnsupportedOperation(f"the model computes `{name}` with {option}")
