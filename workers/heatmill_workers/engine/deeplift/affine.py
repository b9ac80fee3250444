"""Rules for affine functions, which apply to both sides alike, and for what only looks at a tensor."""

from typing import Any

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Condition, Pair, on_baseline, sides
from heatmill_workers.engine.deeplift.register import Function, rule

# What a model asks of a tensor beside its values, and constants of its shape.
METADATA = [
    "shape",
    "size",
    "dim",
    "ndim",
    "device",
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
    "numel",
    "stride",
    "storage_offset",
    "is_contiguous",
    "get_device",
    "__len__",
]

METADATA_OF_NUMBERS = [
    "dtype",
    "is_floating_point",
    "is_complex",
    "element_size",
    "data_ptr",
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
AFFINE_ROW_WISE = ["neg", "negative", "clone", "pad", "avg_pool2d", "adaptive_avg_pool2d"]

# They put the entries of a tensor elsewhere, and change none.
SHAPES = [
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "ravel",
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
    "expand",
    "broadcast_to",
    "repeat",
    "repeat_interleave",
    "tile",
    "__getitem__",
    "select",
    "narrow",
    "index_select",
    "gather",
    "take_along_dim",
    "roll",
    "flip",
    "fliplr",
    "flipud",
    "rot90",
    "diagonal",
]

NUMBERS = ["float", "double", "sum"]

AFFINE = [
    "positive",
    "mean",
    "cumsum",
    "diff",
    "trace",
    "take",
    "masked_select",
    "tril",
    "triu",
    "diag",
    "diag_embed",
    "deg2rad",
    "rad2deg",
    "chunk",
    "split",
    "split_with_sizes",
    "tensor_split",
    "hsplit",
    "vsplit",
    "dsplit",
    "unbind",
    "unsafe_chunk",
    "unsafe_split",
    "unfold",
    "fold",
    "interpolate",
    "grid_sample",
    "affine_grid",
    "avg_pool1d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool3d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "index_fill",
]

COMPLEX = [
    "real",
    "imag",
    "conj",
    "resolve_conj",
    "resolve_neg",
    "view_as_real",
    "view_as_complex",
    "H",
    "mH",
    "adjoint",
    "stft",
    "istft",
    *[f"fft_{inverse}{name}" for inverse in ("", "i") for name in ("fft", "fft2", "fftn", "rfft", "rfft2", "rfftn")],
    *["fft_hfft", "fft_ihfft", "fft_fftshift", "fft_ifftshift"],
]

SUMS = ["add", "sub", "subtract", "__rsub__", "rsub"]

JOINS = ["cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "row_stack"]

# The values that are put into a tensor; the places are constants.
PUTS = ["index_add", "index_copy", "scatter", "scatter_add"]
PUTS_OF_SLICES = ["slice_scatter", "select_scatter", "diagonal_scatter"]

# Of the second argument they ask for what it is, not for its values.
SHAPES_LIKE_OTHER = ["view_as", "reshape_as", "expand_as"]
NUMBERS_LIKE_OTHER = ["type_as", "to"]

DROPOUT = ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]


@rule(*METADATA, row_wise=True, conditions="as numbers", complex_numbers=True)
@rule(*METADATA_OF_NUMBERS, row_wise=True, complex_numbers=True)
def metadata(function: Function, *args: Any, **kwargs: Any) -> Any:
    """What does not depend on the values."""
    return function(*sides(args)[0], **kwargs)


@rule(*SUMS, pairs=("input", "other"), row_wise=True, complex_numbers=True)
@rule(*JOINS, pairs=("tensors",), complex_numbers=True)
@rule(*PUTS_OF_SLICES, pairs=("input", "src"))
@rule("masked_scatter", pairs=("input", "mask", "source"))
@rule("complex", pairs=("real", "imag"))
@rule(*AFFINE_ROW_WISE, row_wise=True, complex_numbers=True)
@rule(*SHAPES, conditions="kept", complex_numbers=True)
@rule(*NUMBERS, conditions="as numbers", complex_numbers=True)
@rule(*AFFINE, *COMPLEX, complex_numbers=True)
def affine(function: Function, *args: Any, **kwargs: Any) -> Any:
    """The same on both sides; the derivative of an affine function is its multiplier."""
    image = function(*sides(args)[0], **sides(kwargs)[0])
    # What is handed back as it came stays one tensor, also when it is changed in place.
    if isinstance(args[0], Pair) and image is args[0].image:
        return args[0]
    return _paired(image, on_baseline(function, args, kwargs, image))


@rule(*SHAPES_LIKE_OTHER, pairs=("input", "other"), conditions="kept", complex_numbers=True)
@rule(*NUMBERS_LIKE_OTHER, pairs=("input", "other"), conditions="as numbers", complex_numbers=True)
def like_other(function: Function, source: Any, *args: Any, **kwargs: Any) -> Any:
    """A tensor in the form of another; a constant stays one."""
    (form, _), (options, _) = sides(args), sides(kwargs)
    return (
        affine(function, source, *form, **options) if isinstance(source, Pair) else function(source, *form, **options)
    )


@rule("__setitem__", pairs=("target", "index", "values"), conditions="followed")
def setitem(function: Function, target: Any, index: Any, values: Any) -> Any:
    """A copy with other values in some places, which do not depend on the image unless they are one comparison."""
    if isinstance(index, Condition) and index.shape == target.shape and _is_one_value(values):
        return torch.where(index, values, target)
    if not isinstance(target, Pair) or any(isinstance(each, Pair) for each in (index, *_listed(index))):
        raise UnsupportedOperation("the model puts values that depend on the image into a constant, or by an index")
    if isinstance(values, Condition):
        raise UnsupportedOperation("the model puts a comparison that depends on the image into a tensor")
    copied = Pair(target.image.clone(), target.baseline.clone())
    for side, of_side in zip((copied.image, copied.baseline), sides(values), strict=True):
        side[index] = of_side
    return copied


@rule(*PUTS, pairs=("input", "dim", "index", "source"))
def puts(function: Function, source: Any, dim: int, index: Tensor, values: Any, **options: Any) -> Any:
    """Values that are put or added to places; what else may be done with them is not affine."""
    if options.get("reduce") is not None:
        raise UnsupportedOperation(f"the model computes `{function.__name__}` with reduce = {options['reduce']}")
    return affine(function, source, dim, index, values, **options)


@rule("copy", "fill", "zero", pairs=("input", "source"))
def replaced(function: Function, target: Any, source: Any = 0.0, non_blocking: bool = False) -> Any:
    """Other values in all places, as by `copy_`, `fill_` and `zero_`."""
    return setitem(function, target, ..., source)


@rule(*DROPOUT, row_wise=True)
def dropout(function: Function, source: Pair, p: float = 0.5, training: bool = False) -> Pair:
    """Dropout of a model in eval mode lets everything through."""
    if training:
        raise UnsupportedOperation("the model computes dropout as in training")
    return source


@rule("detach", "data", row_wise=True, conditions="followed", complex_numbers=True)
def detach(function: Function, source: Pair) -> Pair:
    """The value stays, and so does the way that it came."""
    return source


def _is_one_value(values: Any) -> bool:
    return not isinstance(values, Condition) and (not isinstance(values, Tensor) or values.ndim == 0)


def _listed(index: Any) -> Any:
    return index if isinstance(index, (list, tuple)) else ()


def _paired(image: Any, baseline: Any) -> Any:
    if isinstance(image, Tensor):
        return Pair(image, baseline)
    return tuple(_paired(one, other) for one, other in zip(image, baseline, strict=True))
