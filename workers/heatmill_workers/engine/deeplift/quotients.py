"""Rules for quotients, and for products that are added to something."""

from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.affine import affine
from heatmill_workers.engine.deeplift.pairs import Pair, multiplied, sides
from heatmill_workers.engine.deeplift.register import Function, rule
from heatmill_workers.engine.deeplift.smooth import smooth


@rule("div", "divide", "true_divide", pairs=("input", "other"), complex_numbers=True)
def quotient(function: Function, left: Any, right: Any, rounding_mode: None = None) -> Any:
    """With y = l / d and s = d^2 + d'^2, y - y' = (d + d') / s (l - l') - (d y' + d' y) / s (d - d').

    A product with the reciprocal would be complete too, but its multipliers reach 1 / d' where a length is nearly zero
    on the baseline, and cancel each other: wrong in float32.
    """
    if rounding_mode is not None:
        raise UnsupportedOperation("the model computes a division that rounds")
    if not isinstance(right, Pair):
        return affine(torch.div, left, right)
    if any(isinstance(side, Tensor) and side.is_complex() for side in (sides(left)[0], right.image)):
        raise UnsupportedOperation("the model computes a quotient of complex numbers that depend on the image")
    (over, over_baseline), (under, under_baseline) = sides(left), sides(right)
    with torch.no_grad():
        value, baseline = over / under, over_baseline / under_baseline
        # Their squares alone would leave float32's range.
        root = torch.hypot(under, under_baseline)
        share, share_baseline = under / root, under_baseline / root
        on_left = (share + share_baseline) / root
        on_right = (share * baseline + share_baseline * value) / root
    return Pair(multiplied(over * on_left - under * on_right, value), baseline)


@rule("__rdiv__", pairs=("input", "other"))
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


# Each is beta x input + alpha x product.
PRODUCTS: dict[str, Function] = {
    "addmm": torch.matmul,
    "baddbmm": torch.matmul,
    "addmv": torch.matmul,
    "addbmm": lambda one, other: torch.matmul(one, other).sum(0),
    "addr": torch.outer,
}


@rule(*PRODUCTS, pairs=("input", "left", "right"))
def product_and_sum(function: Function, bias: Any, left: Any, right: Any, **scales: float) -> Any:
    """A product and a sum; of a sum times 0 torch does not look at the values."""
    found = PRODUCTS[function.__name__](left, right) * scales.get("alpha", 1)
    beta = scales.get("beta", 1)
    return found + torch.mul(bias, beta) if beta != 0 else found


@rule("addcmul", pairs=("input", "tensor1", "tensor2"))
def addcmul(function: Function, bias: Any, left: Any, right: Any, value: float = 1) -> Any:
    """A product and a sum, value by value."""
    return bias + torch.mul(left, right) * value


@rule("addcdiv", pairs=("input", "tensor1", "tensor2"))
def addcdiv(function: Function, bias: Any, left: Any, right: Any, value: float = 1) -> Any:
    """A quotient and a sum, value by value."""
    return bias + torch.div(left, right) * value


@rule("lerp", pairs=("input", "end", "weight"))
def lerp(function: Function, start: Any, end: Any, weight: Any) -> Any:
    """From one value a part of the way to another."""
    return start + torch.mul(end - start, weight)
