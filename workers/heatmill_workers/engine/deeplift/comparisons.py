"""Rules for comparisons that depend on the image, and for what is chosen by them.

Let c be 0 or 1 on the image and c' on the baseline, by the sign of s and of s'. Where both agree, nothing of the choice
changed. Where they differ, the change 1 of c goes to s: its multiplier is (c - c') / (s - s'). Then of

    y - y' = m (a - a') + (1 - m) (b - b') + (c - c') (a + a' - b - b') / 2,  m = (c + c') / 2,

which is exactly what choosing a or b comes to, each part has its multiplier. Where a, b and s depend on one value, it
is the rescale rule; where nothing crosses, the multipliers tend to the derivatives.
"""

from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.affine import affine
from heatmill_workers.engine.deeplift.pairs import Condition, Pair, multiplied, sides
from heatmill_workers.engine.deeplift.products import product
from heatmill_workers.engine.deeplift.register import Function, rule

COMPARISONS = [
    "gt",
    "greater",
    "ge",
    "greater_equal",
    "lt",
    "less",
    "le",
    "less_equal",
    "eq",
    "ne",
    "not_equal",
    "__eq__",
]


@rule(*COMPARISONS, pairs=("input", "other"))
def comparison(function: Function, left: Any, right: Any) -> Condition:
    """0 or 1, with a jump where the two sides differ."""
    (one, one_baseline), (other, other_baseline) = sides(left), sides(right)
    source = one - other
    with torch.no_grad():
        truth, truth_baseline = function(one, other), function(one_baseline, other_baseline)
        number, number_baseline = truth.to(source.dtype), truth_baseline.to(source.dtype)
        step = (_double(one) - _double(one_baseline)) - (_double(other) - _double(other_baseline))
        crossed = truth != truth_baseline
        multiplier = torch.where(crossed, (number - number_baseline) / torch.where(crossed, step, 1), 0)
    return Condition(multiplied(source, number, multiplier.to(source.dtype)), number_baseline)


@rule("where", pairs=("condition", "input", "other"), conditions="followed")
def where(function: Function, condition: Any, left: Any, right: Any) -> Any:
    """A choice, by a constant or by a comparison."""
    if isinstance(left, Condition) or isinstance(right, Condition):
        raise UnsupportedOperation("the model computes `where` between comparisons that depend on the image")
    if not isinstance(condition, Pair):
        return affine(torch.where, condition, left, right)
    if not isinstance(condition, Condition):
        raise UnsupportedOperation("the model computes `where` with a condition that is no comparison")
    (one, one_baseline), (other, other_baseline) = sides(left), sides(right)
    with torch.no_grad():
        truth, truth_baseline = condition.image.detach() != 0, condition.baseline != 0
        value, baseline = torch.where(truth, one, other), torch.where(truth_baseline, one_baseline, other_baseline)
        mean = (truth.to(value.dtype) + truth_baseline) / 2
        jump = (one + one_baseline - other - other_baseline) / 2
        jump = torch.where(truth != truth_baseline, jump, 0.0)
    total = condition.image * jump
    for side, share in ((left, mean), (right, 1 - mean)):
        if isinstance(side, Pair):
            total = total + side.image * share
    return Pair(multiplied(total.expand_as(value), value), baseline)


@rule("masked_fill", pairs=("input", "mask", "value"), conditions="followed")
def masked_fill(function: Function, source: Any, mask: Any, value: Any) -> Any:
    """As `where`."""
    if isinstance(mask, Pair):
        return torch.where(mask, value, source)
    if isinstance(value, Pair) or not isinstance(source, Pair) or isinstance(source, Condition):
        raise UnsupportedOperation("the model computes `masked_fill` with a value that depends on the image")
    return affine(function, source, mask, value)


@rule("logical_not", "bitwise_not", "__invert__", conditions="followed")
def negation(function: Function, source: Any) -> Condition:
    """The other of 0 and 1."""
    _refuse_numbers(source)
    return Condition(1 - source.image, 1 - source.baseline)


@rule("logical_and", "bitwise_and", "__and__", pairs=("input", "other"), conditions="followed")
def conjunction(function: Function, left: Any, right: Any) -> Condition:
    """A product."""
    _refuse_numbers(left, right)
    both = product(torch.mul, *(_as_number(side) for side in (left, right)))
    return Condition(both.image, both.baseline)


@rule("logical_or", "bitwise_or", "__or__", pairs=("input", "other"), conditions="followed")
def disjunction(function: Function, left: Any, right: Any) -> Condition:
    """Not both of the opposites."""
    _refuse_numbers(left, right)
    neither: Any = torch.logical_and(torch.logical_not(left), torch.logical_not(right))
    return Condition(1 - neither.image, 1 - neither.baseline)


def _refuse_numbers(*given: Any) -> None:
    for each in given:
        if isinstance(each, Pair) and not isinstance(each, Condition):
            raise UnsupportedOperation("the model computes logic on numbers that depend on the image")


def _as_number(side: Any) -> Any:
    return Pair(side.image, side.baseline) if isinstance(side, Condition) else side


def _double(side: Any) -> Any:
    return side.double() if isinstance(side, Tensor) else side
