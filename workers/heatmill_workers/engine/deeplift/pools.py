"""Rules for max pools and largest values.

Windows may overlap, and each one's share is added: the gradient of `gather` is a scatter-add. (captum's and shap's
`max_unpool` keeps one share of several.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, rows_once, rule

# Of the maximum's change. The multiplier is then at most this much above 1.
AS_GOOD = 1e-3


@rule("max_pool2d", row_wise=True)
def max_pool2d(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Any:
    """A window's change goes to one entry: the image's largest where the maximum grew, the baseline's where it shrank.

    That entry changed by at least as much and in the same direction, so its multiplier lies in 0..1. Where the image's
    largest was as good as the baseline's it is taken too: inside a blank baseline all entries of a window are alike,
    and which one is the largest is a matter of rounding.
    """
    kwargs.pop("return_indices", None)
    return _routed(functional.max_pool2d_with_indices, source, args, kwargs)


@rule("adaptive_max_pool2d", row_wise=True)
def adaptive_max_pool2d(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Any:
    """As `max_pool2d`."""
    kwargs.pop("return_indices", None)
    return _routed(functional.adaptive_max_pool2d_with_indices, source, args, kwargs)


@rule("amax")
def amax(function: Function, source: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """As `max_pool2d`, over whole dimensions."""
    dims = [each % source.ndim for each in (dim if isinstance(dim, (list, tuple)) else [dim])]
    if not dims:
        raise UnsupportedOperation("the model computes `amax` over a whole batch")
    last = list(range(-len(dims), 0))
    rows = source.movedim(dims, last).flatten(-len(dims))
    with torch.no_grad():
        value, where = rows.image.max(-1, keepdim=True)
        baseline, baseline_where = rows.baseline.max(-1, keepdim=True)
    chosen, share = _chosen((rows.image, rows.baseline), (value, where), (baseline, baseline_where))
    largest: Any = Pair(multiplied(chosen, value, share), baseline)
    kept = largest.reshape(*largest.shape[:-1], *[1] * len(dims)).movedim(last, dims)
    return kept if keepdim else kept.squeeze(dims)


def _routed(pool: Function, source: Pair, args: Any, kwargs: Any) -> Any:
    with torch.no_grad():
        value, where = pool(source.image, *args, **kwargs)
        found = pool(rows_once(source.baseline), *args, **kwargs)
        baseline, baseline_where = (each.expand_as(value) for each in found)
    maps = (source.image.flatten(2), source.baseline.flatten(2))
    on_image, on_baseline = (value.flatten(2), where.flatten(2)), (baseline.flatten(2), baseline_where.flatten(2))
    chosen, share = (each.view(value.shape) for each in _chosen(maps, on_image, on_baseline))
    return Pair(multiplied(chosen, value, share), baseline)


def _chosen(
    rows: tuple[Tensor, Tensor], on_image: tuple[Tensor, Tensor], on_baseline: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The entry of each row that its largest's change goes to, and its multiplier; where the largest is, is given."""
    (value, where), (baseline, baseline_where) = on_image, on_baseline
    with torch.no_grad():
        behind = baseline - rows[1].gather(-1, where)
        images = (value >= baseline) | (behind <= AS_GOOD * (baseline - value))
        entries = torch.where(images, where, baseline_where)
    chosen = rows[0].gather(-1, entries)
    with torch.no_grad():
        step = chosen - rows[1].gather(-1, entries)
        share = torch.where(step == 0, 1, (value - baseline) / torch.where(step == 0, 1, step))
    return chosen, share
