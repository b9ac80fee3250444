"""Rules for affine functions, which apply to both sides alike, and for functions of one value at a time."""

from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, on_baseline, rule, sides

# What a model asks of a tensor beside its values, and constants of its shape.
METADATA = [
    "shape",
    "size",
    "dim",
    "ndim",
    "ndimension",
    "device",
    "dtype",
    "layout",
    "is_cuda",
    "is_cpu",
    "is_sparse",
    "is_quantized",
    "is_nested",
    "is_meta",
    "is_leaf",
    "requires_grad",
    "grad_fn",
    "is_floating_point",
    "is_complex",
    "numel",
    "nelement",
    "element_size",
    "stride",
    "storage_offset",
    "is_contiguous",
    "get_device",
    "data_ptr",
    "names",
    "__len__",
    "__hash__",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_tensor",
]

# They make no view, and compute each row by itself.
AFFINE_ROW_WISE = [
    "neg",
    "negative",
    "__neg__",
    "clone",
    "pad",
    "avg_pool2d",
    "adaptive_avg_pool2d",
]

AFFINE = [
    "positive",
    "__pos__",
    "mean",
    "sum",
    "cumsum",
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "swapaxes",
    "swapdims",
    "movedim",
    "moveaxis",
    "T",
    "mT",
    "t",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "float",
    "double",
    "half",
    "bfloat16",
    "expand",
    "broadcast_to",
    "repeat",
    "repeat_interleave",
    "tile",
    "chunk",
    "split",
    "split_with_sizes",
    "tensor_split",
    "unbind",
    "unsafe_chunk",
    "__getitem__",
    "select",
    "narrow",
    "index_select",
    "gather",
    "take_along_dim",
    "roll",
    "flip",
    "rot90",
    "masked_fill",
    "diagonal",
    "unfold",
    "fold",
    "interpolate",
    "upsample",
    "grid_sample",
    "avg_pool1d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool3d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "alias",
]

SUMS = ["add", "__add__", "__radd__", "sub", "subtract", "__sub__", "__rsub__", "rsub"]

JOINS = ["cat", "concat", "concatenate", "stack", "hstack", "vstack"]

# Of the second argument they ask for what it is, not for its values.
ALIKE = ["view_as", "reshape_as", "expand_as", "type_as", "to"]

# Made of straight pieces: a difference of two values is exact in the tensors' own precision.
STRAIGHT = [
    "relu",
    "relu6",
    "hardtanh",
    "leaky_relu",
    "prelu",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
    "abs",
    "threshold",
    "hardshrink",
    "softshrink",
]
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
    "mish",
    "logsigmoid",
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
    "sin",
    "cos",
]
DROPOUT = ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]

# Of a smooth function, in float64: below it the derivative half-way is nearer than the quotient.
SMALLEST_STEP = 1e-7


@rule(*METADATA, row_wise=True)
def metadata(function: Function, *args: Any, **kwargs: Any) -> Any:
    """What does not depend on the values."""
    return function(*sides(args)[0], **kwargs)


@rule(*SUMS, pairs=("input", "other"), row_wise=True)
@rule(*JOINS, pairs=("tensors",))
@rule(*AFFINE_ROW_WISE, row_wise=True)
@rule(*AFFINE)
def affine(function: Function, *args: Any, **kwargs: Any) -> Any:
    """The same on both sides; the derivative of an affine function is its multiplier."""
    image = function(*sides(args)[0], **sides(kwargs)[0])
    # What is handed back as it came stays one tensor, also when it is changed in place.
    if isinstance(args[0], Pair) and image is args[0].image:
        return args[0]
    return _paired(image, on_baseline(function, args, kwargs, image))


@rule(*ALIKE, pairs=("input", "other"))
def alike(function: Function, source: Any, *args: Any, **kwargs: Any) -> Any:
    """A tensor in the form of another; a constant stays one."""
    (form, _), (options, _) = sides(args), sides(kwargs)
    return (
        affine(function, source, *form, **options) if isinstance(source, Pair) else function(source, *form, **options)
    )


@rule("where", pairs=("condition", "input", "other"))
def where(function: Function, condition: Any, *branches: Any) -> Any:
    """A choice that does not depend on the image."""
    if isinstance(condition, Pair):
        raise UnsupportedOperation("the model computes `where` with a condition that depends on the image")
    return affine(function, condition, *branches)


@rule("__setitem__", pairs=("target", "index", "values"))
def put(function: Function, target: Any, index: Any, values: Any) -> Pair:
    """A copy with other values in some places, which do not depend on the image."""
    if not isinstance(target, Pair) or any(isinstance(each, Pair) for each in (index, *_listed(index))):
        raise UnsupportedOperation("the model puts values that depend on the image into a constant, or by an index")
    copy = Pair(target.image.clone(), target.baseline.clone())
    for side, of_side in zip((copy.image, copy.baseline), sides(values), strict=True):
        side[index] = of_side
    return copy


@rule(*DROPOUT, row_wise=True)
def dropout(function: Function, source: Pair, p: float = 0.5, training: bool = False) -> Pair:
    """Dropout of a model in eval mode lets everything through."""
    if training:
        raise UnsupportedOperation("the model computes dropout as in training")
    return source


@rule("detach", row_wise=True)
def detach(function: Function, source: Pair) -> Pair:
    """The value stays, and so does the way that it came."""
    return source


@rule(*STRAIGHT, row_wise=True)
def straight(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Pair:
    """The rescale rule: change of output over change of input."""
    with torch.no_grad():
        value = function(source.image, *args, **kwargs)
        baseline = on_baseline(function, (source, *args), kwargs, value)
        multiplier = (value - baseline).div_(source.image - source.baseline)
        # What did not move has no quotient; one pass over a sum tells whether there is any.
        if multiplier.sum().isnan():
            multiplier = torch.where(multiplier.isnan(), _derivative(function, source.image, args, kwargs), multiplier)
    return Pair(multiplied(source.image, value, multiplier), baseline)


@rule(*SMOOTH, row_wise=True)
def smooth(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Pair:
    """The rescale rule with differences in float64: in float32 most of a small difference would be rounding."""

    def precise(side: Tensor) -> Tensor:
        found: Tensor = function(side.double(), *args, **kwargs)
        return found

    with torch.no_grad():
        value = function(source.image, *args, **kwargs)
        baseline = on_baseline(function, (source, *args), kwargs, value)
        change = precise(source.image) - on_baseline(precise, (source,), {}, value)
        step = source.image.double() - source.baseline
        # Written so that a step that is not a number (both sides masked by -inf) counts as none.
        still = ~(step.abs() > SMALLEST_STEP)
        multiplier = change / torch.where(still, 1, step)
        if still.any():
            slope = _derivative(function, (source.image + source.baseline) / 2, args, kwargs)
            # Where a slope has no end, as a root's at 0, nothing moved: only a finite multiplier comes to nothing.
            slope = torch.nan_to_num(slope.to(multiplier.dtype), nan=0.0, posinf=0.0, neginf=0.0)
            multiplier = torch.where(still, slope, multiplier)
    return Pair(multiplied(source.image, value, multiplier.to(value.dtype)), baseline)


def _listed(index: Any) -> Any:
    return index if isinstance(index, (list, tuple)) else ()


def _paired(image: Any, baseline: Any) -> Any:
    if isinstance(image, Tensor):
        return Pair(image, baseline)
    return tuple(_paired(one, other) for one, other in zip(image, baseline, strict=True))


def _derivative(function: Function, values: Tensor, args: Any, kwargs: Any) -> Tensor:
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        (derivative,) = torch.autograd.grad(function(leaf, *args, **kwargs).sum(), leaf)
    return derivative
