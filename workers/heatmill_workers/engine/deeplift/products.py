"""Rules for products of two values that both depend on the image, and for quotients."""

from functools import partial
from typing import Any

import torch

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.elementwise import affine
from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, rule


@rule("mul", "multiply", "__mul__", "__rmul__", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm")
def product(function: Function, left: Any, right: Any) -> Any:
    """Each factor's change times the mean of the other, which together are the product's change exactly."""
    if not (isinstance(left, Pair) and isinstance(right, Pair)):
        return affine(function, left, right)
    with torch.no_grad():
        value, baseline = function(left.image, right.image), function(left.baseline, right.baseline)
        left_mean, right_mean = ((side.image + side.baseline) / 2 for side in (left, right))
    stand_in = function(left.image, right_mean) + function(left_mean, right.image)
    return Pair(multiplied(stand_in, value), baseline)


@rule("einsum")
def einsum(function: Function, equation: str, *factors: Any) -> Any:
    """A product in Einstein's notation."""
    operands = factors[0] if len(factors) == 1 and isinstance(factors[0], (list, tuple)) else factors
    if len(operands) != 2:
        raise UnsupportedOperation(f"the model computes `einsum` of {len(operands)} tensors")
    return product(partial(torch.einsum, equation), *operands)


@rule("div", "divide", "true_divide", "__truediv__")
def quotient(function: Function, left: Any, right: Any, rounding_mode: None = None) -> Any:
    """A product with the reciprocal."""
    if rounding_mode is not None:
        raise UnsupportedOperation("the model computes a division that rounds")
    return torch.mul(torch.reciprocal(right), left) if isinstance(right, Pair) else affine(torch.div, left, right)


@rule("__rtruediv__", "__rdiv__")
def reflected_quotient(function: Function, right: Pair, left: Any) -> Any:
    """A constant over a pair."""
    return torch.mul(torch.reciprocal(right), left)


@rule("addmm")
def addmm(function: Function, bias: Any, left: Any, right: Any) -> Any:
    """A product and a sum."""
    return torch.matmul(left, right) + bias
