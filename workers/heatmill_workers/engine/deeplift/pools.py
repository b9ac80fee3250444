"""Rules for max pools and largest values.

Windows may overlap, and each one's share is added: the gradient of `gather` is a scatter-add. (captum's and shap's
`max_unpool` keeps one share of several.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, rule


@rule("max_pool2d")
def max_pool2d(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Any:
    """A window's change goes to one entry: the image's largest where the maximum grew, the baseline's where it shrank.

    That entry changed by at least as much and in the same direction, so its multiplier lies in 0..1.
    """
    kwargs.pop("return_indices", None)
    return _routed(functional.max_pool2d_with_indices, source, args, kwargs)


@rule("adaptive_max_pool2d")
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
        entries = torch.where(value >= baseline, where, baseline_where)
    largest: Any = _chosen(rows, entries, value, baseline)
    kept = largest.reshape(*largest.shape[:-1], *[1] * len(dims)).movedim(last, dims)
    return kept if keepdim else kept.squeeze(dims)


def _routed(pool: Function, source: Pair, args: Any, kwargs: Any) -> Any:
    with torch.no_grad():
        value, where = pool(source.image, *args, **kwargs)
        baseline, baseline_where = pool(source.baseline, *args, **kwargs)
        entries = torch.where(value >= baseline, where, baseline_where)
    flat: Any = _chosen(source.flatten(2), entries.flatten(2), value.flatten(2), baseline.flatten(2))
    return flat.view(value.shape)


def _chosen(rows: Any, entries: Tensor, value: Tensor, baseline: Tensor) -> Pair:
    """The largest of each row, whose change goes to one entry of it."""
    chosen = rows.image.gather(-1, entries)
    with torch.no_grad():
        step = chosen - rows.baseline.gather(-1, entries)
        share = torch.where(step == 0, 1, (value - baseline) / torch.where(step == 0, 1, step))
    return Pair(multiplied(chosen, value, share), baseline)
