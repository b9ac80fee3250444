"""Rules for products of two values that both depend on the image, and for quotients."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.elementwise import affine, smooth
from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, on_baseline, rule, sides

WEIGHTED = ["conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
CONV2D_OPTIONS = ("stride", "padding", "dilation", "groups")


@rule("mul", "multiply", "__mul__", "__rmul__", pairs=("input", "other"), row_wise=True)
def scaled(function: Function, left: Any, right: Any) -> Any:
    """A product, value by value."""
    for factor, other in ((left, right), (right, left)):
        if isinstance(factor, Pair) and factor.one_over is not None:
            return torch.div(other, factor.one_over)
    return product(torch.mul, left, right)


@rule("matmul", "__matmul__", "__rmatmul__", "bmm", "mm", pairs=("input", "other"))
def product(function: Function, left: Any, right: Any) -> Any:
    """Each factor's change times the mean of the other, which together are the product's change exactly."""
    if not (isinstance(left, Pair) and isinstance(right, Pair)):
        return affine(function, left, right)
    with torch.no_grad():
        value = function(left.image, right.image)
        baseline = on_baseline(function, (left, right), {}, value)
        left_mean, right_mean = ((side.image + side.baseline) / 2 for side in (left, right))
    stand_in = function(left.image, right_mean) + function(left_mean, right.image)
    return Pair(multiplied(stand_in, value), baseline)


@rule("conv2d", pairs=("input", "weight", "bias"), row_wise=True)
def conv2d(function: Function, source: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Affine; against further baselines it is known on the image's side."""
    options = dict(zip(CONV2D_OPTIONS, args, strict=False)) | kwargs
    constant = isinstance(source, Pair) and not isinstance(weight, Pair) and not isinstance(bias, Pair)
    if not constant or source.known is None or source.ndim != 4 or isinstance(options.get("padding"), str):
        return weighted(function, source, weight, bias, **options)
    image = source.known.conv2d(source.image, weight, bias, options)
    return Pair(image, on_baseline(function, (source, weight, bias), options, image))


@rule("linear", pairs=("input", "weight", "bias"), row_wise=True)
@rule(*WEIGHTED, pairs=("input", "weight", "bias"))
def weighted(function: Function, source: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Affine, unless the weights depend on the image too."""
    if not isinstance(weight, Pair):
        return affine(function, source, weight, bias, *args, **kwargs)
    mixed = product(lambda left, right: function(left, right, None, *args, **kwargs), source, weight)
    return mixed if bias is None else mixed + bias.view(-1, *[1] * (weight.ndim - 2))


@rule("einsum", pairs=("equation", "left", "right"))
def einsum(function: Function, equation: str, *factors: Any) -> Any:
    """A product in Einstein's notation."""
    operands = factors[0] if len(factors) == 1 and isinstance(factors[0], (list, tuple)) else factors
    if len(operands) != 2:
        raise UnsupportedOperation(f"the model computes `einsum` of {len(operands)} tensors")
    return product(partial(torch.einsum, equation), *operands)


@rule("div", "divide", "true_divide", "__truediv__", pairs=("input", "other"))
def quotient(function: Function, left: Any, right: Any, rounding_mode: None = None) -> Any:
    """With y = l / d and s = d^2 + d'^2, y - y' = (d + d') / s (l - l') - (d y' + d' y) / s (d - d').

    A product with the reciprocal would be complete too, but its multipliers reach 1 / d' where a length is nearly zero
    on the baseline, and cancel each other: wrong in float32.
    """
    if rounding_mode is not None:
        raise UnsupportedOperation("the model computes a division that rounds")
    if not isinstance(right, Pair):
        return affine(torch.div, left, right)
    (over, over_baseline), (under, under_baseline) = sides(left), sides(right)
    with torch.no_grad():
        value, baseline = over / under, over_baseline / under_baseline
        # Their squares alone would leave float32's range.
        root = torch.hypot(under, under_baseline)
        share, share_baseline = under / root, under_baseline / root
        on_left = (share + share_baseline) / root
        on_right = (share * baseline + share_baseline * value) / root
    return Pair(multiplied(over * on_left - under * on_right, value), baseline)


@rule("__rtruediv__", "__rdiv__", pairs=("input", "other"))
def reflected_quotient(function: Function, right: Pair, left: Any) -> Any:
    """A constant over a pair."""
    return torch.div(left, right)


@rule("reciprocal", "rsqrt")
def inverse(function: Function, source: Pair) -> Pair:
    """One over something."""
    found: Pair = smooth(function, source)
    denominator: Any = torch.sqrt(source) if function.__name__.startswith("rsqrt") else source.clone()
    found.one_over = denominator
    return found


@rule("pow", "__pow__")
def power(function: Function, base: Any, exponent: Any) -> Any:
    """A constant power."""
    if isinstance(exponent, Tensor):
        raise UnsupportedOperation("the model computes `pow` with a tensor as exponent")
    return smooth(function, base, exponent)


@rule("addmm", pairs=("input", "mat1", "mat2"))
def addmm(function: Function, bias: Any, mat1: Any, mat2: Any, **scales: float) -> Any:
    """A product and a sum."""
    return torch.matmul(mat1, mat2) * scales.get("alpha", 1) + torch.mul(bias, scales.get("beta", 1))


@rule("addcmul", pairs=("input", "tensor1", "tensor2"))
def addcmul(function: Function, bias: Any, left: Any, right: Any, value: float = 1) -> Any:
    """A product and a sum, value by value."""
    return bias + torch.mul(left, right) * value
