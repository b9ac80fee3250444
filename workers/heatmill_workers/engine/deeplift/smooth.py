"""Rules for smooth functions of one value or two, entry by entry."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from heatmill_workers.engine.deeplift.pairs import Pair, multiplied, on_baseline, sides
from heatmill_workers.engine.deeplift.piecewise_linear import derivative, image_like
from heatmill_workers.engine.deeplift.register import Function, rule

SMOOTH = [
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
    "elu",
    "selu",
    "celu",
    "softplus",
    "softshrink",
    "mish",
    "log_sigmoid",
    "softsign",
    "tanhshrink",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "square",
    "erf",
    "erfc",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "asin",
    "acos",
    "atan",
    "asinh",
    "acosh",
    "atanh",
    "arcsin",
    "arccos",
    "arctan",
    "arcsinh",
    "arccosh",
    "arctanh",
    "sinc",
    "logit",
    "lgamma",
    "special_expit",
    "special_exp2",
    "special_expm1",
    "special_log1p",
    "special_erf",
    "special_erfc",
    "special_sinc",
    "special_logit",
    "special_ndtr",
    "special_log_ndtr",
    "special_gammaln",
]

OF_TWO = [
    "hypot",
    "atan2",
    "arctan2",
    "xlogy",
    "special_xlogy",
    "special_xlog1py",
    "logaddexp",
    "logaddexp2",
]

# In float64. Below this step, a change that is smaller than this part of the values themselves is rounding, and the
# derivative half-way is nearer. Above, and where a value changes by its own size as at a root of 0, the quotient is.
SMALLEST_STEP = 1e-7
SMALLEST_CHANGE = 1e-10


@rule(*SMOOTH, row_wise=True)
def smooth(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Pair:
    """The rescale rule with differences in float64: in float32 most of a small difference would be rounding."""

    def applied(side: Tensor) -> Tensor:
        found: Tensor = function(side, *args, **kwargs)
        return found

    def precise(side: Tensor) -> Tensor:
        return applied(side.double())

    with torch.no_grad():
        value = applied(source.image)
        baseline = on_baseline(applied, (source,), {}, value)
        ends = precise(source.image), on_baseline(precise, (source,), {}, value)
        alone = not any(isinstance(arg, Tensor) for arg in (*args, *kwargs.values()))
        multiplier = _secant(applied, (source.image, source.baseline), ends, alone=alone)
    return Pair(multiplied(image_like(source, value), value, multiplier.to(value.dtype)), baseline)


@rule("pow", "float_power", pairs=("input", "exponent"))
def power(function: Function, base: Any, exponent: Any) -> Any:
    """Of the base, of the exponent, or of both."""
    if not isinstance(exponent, Pair):
        return smooth(function, base, exponent)
    if not isinstance(base, Pair):
        return smooth(lambda power, constant: function(constant, power), exponent, base)
    return of_two(function, base, exponent)


@rule("__rpow__", pairs=("exponent", "base"))
def reflected_power(function: Function, exponent: Pair, base: Any) -> Any:
    """A constant to the power of a pair."""
    return power(torch.pow, base, exponent)


@rule(*OF_TWO, pairs=("input", "other"))
def of_two(function: Function, left: Any, right: Any) -> Pair:
    """Each argument's own change, the mean of the other held on the image and on the baseline: Shapley's shares."""
    (one, one_baseline), (other, other_baseline) = sides(left), sides(right)
    with torch.no_grad():
        value, baseline = function(one, other), function(one_baseline, other_baseline)
    total: Any = 0
    if isinstance(left, Pair):
        total = total + one * _mean_secant(function, left, (other, other_baseline))
    if isinstance(right, Pair):
        total = total + other * _mean_secant(lambda side, held: function(held, side), right, (one, one_baseline))
    return Pair(multiplied(total, value), baseline)


def _mean_secant(function: Function, source: Pair, held: tuple[Any, Any]) -> Tensor:
    """Of the first argument, the mean over what the second is held at."""
    with torch.no_grad():
        first, second = (_secant_at(function, source, at) for at in held)
        return ((first + second) / 2).to(source.image.dtype)


def _secant_at(function: Function, source: Pair, held: Any) -> Tensor:
    ends = function(source.image.double(), held), function(source.baseline.double(), held)
    return _secant(lambda side: function(side, held), (source.image, source.baseline), ends)


def _secant(
    function: Callable[[Tensor], Tensor],
    starts: tuple[Tensor, Tensor],
    ends: tuple[Tensor, ...],
    *,
    alone: bool = False,
) -> Tensor:
    """Change of a function over the change of its argument, float64; its derivative where that is not to be told.

    Args:
        function: Of one value at a time.
        starts: Its argument on both sides.
        ends: Its values there, float64.
        alone: No constant beside it has a shape of its own, so that it takes some of the values alone.
    """
    step, change = starts[0].double() - starts[1], ends[0] - ends[1]
    quotient = change / step
    # Written so that a step that is not a number (both sides masked by -inf) counts as none.
    still = ~(step.abs() > SMALLEST_STEP).expand(quotient.shape)
    if not still.any():
        return quotient
    places = still.nonzero(as_tuple=True)
    largest = torch.maximum(ends[0][places].abs(), ends[1][places].abs())
    lost = ~(change[places].abs() > SMALLEST_CHANGE * largest)
    image, baseline = (start.expand(quotient.shape) for start in starts)
    if alone:
        slope = derivative(function, (image[places] + baseline[places]) / 2, (), {})
    else:
        slope = derivative(function, (image + baseline) / 2, (), {})[places]
    # Where a slope has no end, as a root's at 0, nothing moved: only a finite multiplier comes to nothing.
    slope = torch.nan_to_num(slope.to(quotient.dtype), nan=0.0, posinf=0.0, neginf=0.0)
    quotient[places] = torch.where(lost, slope, quotient[places])
    return quotient
