"""Rules for functions made of straight pieces, whose differences are exact in the tensors' own precision."""

from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Pair, multiplied, on_baseline, sides
from heatmill_workers.engine.deeplift.register import Function, rule

# The first do not round; the others have values that are small whole numbers, or the input itself.
PIECEWISE_LINEAR = [
    "relu",
    "relu6",
    "hardtanh",
    "clamp_min",
    "clamp_max",
    "threshold",
    "_threshold",
    "hardshrink",
    "nan_to_num",
]
# Flat, with jumps: the change of a jump is what a value has that crossed it.
PIECEWISE_CONSTANT = ["sign", "sgn", "floor", "ceil", "trunc", "fix", "round"]


@rule(*PIECEWISE_LINEAR, *PIECEWISE_CONSTANT, row_wise=True)
def piecewise_linear(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Pair:
    """The rescale rule: change of output over change of input."""
    with torch.no_grad():
        value = function(source.image, *args, **kwargs)
        baseline = on_baseline(function, (source, *args), kwargs, value)
        multiplier = _quotient(value - baseline, source.image - source.baseline)
        # What did not move has no quotient; one pass over a sum tells whether there is any.
        if multiplier.sum().isnan():
            multiplier = torch.where(multiplier.isnan(), derivative(function, source.image, args, kwargs), multiplier)
    return Pair(multiplied(image_like(source, value), value, multiplier), baseline)


@rule("abs", "absolute", row_wise=True, complex_numbers=True)
def absolute(function: Function, source: Pair) -> Any:
    """Of complex numbers it is a length."""
    if source.image.is_complex():
        return torch.linalg.vector_norm(torch.view_as_real(source), dim=-1)
    return piecewise_linear(function, source)


@rule("clamp", "clip", pairs=("input", "min", "max"), row_wise=True)
def clamp(function: Function, source: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - torch's names
    """Bounds may depend on the image too."""
    if isinstance(min, Pair) or isinstance(max, Pair) or not isinstance(source, Pair):
        above = source if min is None else torch.maximum(source, _tensor(min, source))
        return above if max is None else torch.minimum(above, _tensor(max, source))
    return piecewise_linear(function, source, min=min, max=max)


@rule("leaky_relu", row_wise=True)
def leaky_relu(function: Function, source: Pair, negative_slope: float = 0.01) -> Pair:
    """Slope s below 0: s x + (1 - s) relu(x), since a quotient of two small differences of s x is rounding."""
    return _leaky(function, source, (negative_slope,), negative_slope)


@rule("prelu", row_wise=True)
def prelu(function: Function, source: Pair, weight: Tensor) -> Pair:
    """As `leaky_relu`, with a slope for each channel."""
    shape = (1, -1, *[1] * (source.ndim - 2)) if source.ndim > 1 else (-1,)
    return _leaky(function, source, (weight,), weight.detach().view(shape))


@rule("rrelu", row_wise=True)
def rrelu(
    function: Function, source: Pair, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any
) -> Pair:
    """As `leaky_relu`, with the mean slope."""
    if training:
        raise UnsupportedOperation("the model computes `rrelu` as in training")
    return _leaky(function, source, (lower, upper), (lower + upper) / 2)


@rule("frac", row_wise=True)
def frac(function: Function, source: Pair) -> Any:
    """What is left of whole numbers."""
    return source - torch.trunc(source)


@rule("maximum", "fmax", pairs=("input", "other"))
def maximum(function: Function, left: Any, right: Any) -> Pair:
    """R + relu(l - r): each side gets the share of the path on which it is the larger one."""
    share = _share_ahead(left, right)
    return _shared(function, left, right, share)


@rule("minimum", "fmin", pairs=("input", "other"))
def minimum(function: Function, left: Any, right: Any) -> Pair:
    """L - relu(l - r)."""
    return _shared(function, left, right, 1 - _share_ahead(left, right))


def derivative(function: Function, values: Tensor, args: Any, kwargs: Any) -> Tensor:
    """Of a function of one value at a time, at these values."""
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        (found,) = torch.autograd.grad(function(leaf, *args, **kwargs).sum(), leaf)
    return found


def image_like(source: Pair, value: Tensor) -> Tensor:
    """The image's side in the shape of the value: a constant argument may have more dimensions."""
    return source.image if source.image.shape == value.shape else source.image.expand_as(value)


def _leaky(function: Function, source: Pair, args: tuple[Any, ...], slope: Any) -> Pair:
    with torch.no_grad():
        value = function(source.image, *args)
        positive = _quotient(source.image.relu() - source.baseline.relu(), source.image - source.baseline)
        positive = torch.where(positive.isnan(), (source.image > 0).to(positive.dtype), positive)
        multiplier = slope + (1 - slope) * positive
    return Pair(multiplied(source.image, value, multiplier), on_baseline(function, (source, *args), {}, value))


def _share_ahead(left: Any, right: Any) -> Tensor:
    """Change of relu(l - r) over the change of l - r; half where both are equal, as torch's gradient has it."""
    with torch.no_grad():
        (image, baseline), (other, other_baseline) = sides(left), sides(right)
        ahead, ahead_baseline = image - other, baseline - other_baseline
        share = _quotient(ahead.relu() - ahead_baseline.relu(), ahead - ahead_baseline)
        return torch.where(share.isnan(), torch.where(ahead == 0, 0.5, (ahead > 0).to(share.dtype)), share)


def _shared(function: Function, left: Any, right: Any, share: Tensor) -> Pair:
    """With a share of the left side's change, and the rest of the right side's."""
    (image, baseline), (other, other_baseline) = sides(left), sides(right)
    with torch.no_grad():
        value, of_baseline = function(image, other), function(baseline, other_baseline)
    return Pair(multiplied(image * share + other * (1 - share), value), of_baseline)


def _quotient(change: Tensor, step: Tensor) -> Tensor:
    return change.div_(step)


def _tensor(bound: Any, source: Any) -> Any:
    return bound if isinstance(bound, Tensor) else torch.full((), bound, dtype=source.dtype, device=source.device)
