"""Rules for products of two values that both depend on the image."""

from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.affine import affine
from heatmill_workers.engine.deeplift.pairs import Pair, multiplied, on_baseline
from heatmill_workers.engine.deeplift.register import Function, rule

WEIGHTED = ["conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
MUL = ["mul", "multiply"]
MATMUL = ["matmul", "__rmatmul__", "bmm", "mm", "mv", "dot", "inner", "linalg_matmul"]
OUTER = ["outer", "ger", "kron"]
CONV2D_OPTIONS = ("stride", "padding", "dilation", "groups")


@rule(*MUL, pairs=("input", "other"), row_wise=True, conditions="as numbers", complex_numbers=True)
def scaled(function: Function, left: Any, right: Any) -> Any:
    """A product, value by value."""
    for factor, other in ((left, right), (right, left)):
        if isinstance(factor, Pair) and factor.one_over is not None:
            return torch.div(other, factor.one_over)
    return product(torch.mul, left, right)


@rule(*MATMUL, *OUTER, pairs=("input", "other"), complex_numbers=True)
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
    if not constant or source.conv_cache is None or source.ndim != 4 or isinstance(options.get("padding"), str):
        return weighted(function, source, weight, bias, **options)
    image = source.conv_cache.conv2d(source.image, weight, bias, options)
    return Pair(image, on_baseline(function, (source, weight, bias), options, image))


@rule("linear", pairs=("input", "weight", "bias"), row_wise=True)
@rule(*WEIGHTED, pairs=("input", "weight", "bias"))
def weighted(function: Function, source: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Affine, unless the weights depend on the image too."""
    if not isinstance(weight, Pair):
        return affine(function, source, weight, bias, *args, **kwargs)
    mixed = product(lambda left, right: function(left, right, None, *args, **kwargs), source, weight)
    return mixed if bias is None else mixed + bias.view(-1, *[1] * (weight.ndim - 2))


@rule("einsum", pairs=("equation", "first", "second", "third", "fourth"), complex_numbers=True)
def einsum(function: Function, equation: str, *factors: Any) -> Any:
    """A product in Einstein's notation."""
    operands = list(factors[0] if len(factors) == 1 and isinstance(factors[0], (list, tuple)) else factors)
    places = [place for place, operand in enumerate(operands) if isinstance(operand, Pair)]
    if len(places) > 2:
        raise UnsupportedOperation(f"the model computes `einsum` of {len(places)} tensors that depend on the image")

    def contracted(*given: Any) -> Tensor:
        found: Tensor = torch.einsum(equation, *_put(operands, places, given))
        return found

    pairs = [operands[place] for place in places]
    return product(contracted, *pairs) if len(pairs) == 2 else affine(contracted, *pairs)


@rule("tensordot", pairs=("input", "other"), complex_numbers=True)
def tensordot(function: Function, left: Any, right: Any, dims: Any = 2, **_: Any) -> Any:
    """A product that sums over some dimensions."""
    return product(lambda one, other: torch.tensordot(one, other, dims), left, right)


@rule("linalg_vecdot", "cross", "linalg_cross", pairs=("input", "other"))
def along(function: Function, left: Any, right: Any, **options: Any) -> Any:
    """A product along one dimension."""
    return product(lambda one, other: function(one, other, **options), left, right)


@rule("bilinear", pairs=("input1", "input2"))
def bilinear(function: Function, left: Any, right: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A product of both inputs by each of the weight's matrices."""
    mixed = product(lambda one, other: torch.nn.functional.bilinear(one, other, weight), left, right)
    return mixed if bias is None else mixed + bias


@rule("linalg_multi_dot", pairs=("first", "second", "third", "fourth"))
def chained(function: Function, *factors: Any) -> Any:
    """Products, from the left to the right."""
    first, *others = factors[0] if isinstance(factors[0], (list, tuple)) else factors
    for factor in others:
        first = torch.matmul(first, factor)
    return first


@rule("prod")
def whole_product(function: Function, source: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Products of halves, down to one."""
    if dim is None:
        raise UnsupportedOperation("the model computes `prod` over a whole batch")
    rows = source.movedim(dim, -1)
    while (length := rows.shape[-1]) > 1:
        half = length // 2
        pairs = rows[..., :half] * rows[..., half : 2 * half]
        rows = torch.cat([pairs, rows[..., 2 * half :]], -1) if length % 2 else pairs
    return rows.movedim(-1, dim) if keepdim else rows.squeeze(-1)


def _put(operands: list[Any], places: list[int], given: tuple[Any, ...]) -> list[Any]:
    """The operands with others in some places."""
    changed = list(operands)
    for place, each in zip(places, given, strict=True):
        changed[place] = each
    return changed
