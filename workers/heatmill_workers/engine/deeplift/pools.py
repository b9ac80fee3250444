"""Rules for max pools and largest values.

Windows may overlap, and each one's share is added: the gradient of `gather` is a scatter-add. (captum's and shap's
`max_unpool` keeps one share of several.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Pair, Places, multiplied, rows_once
from heatmill_workers.engine.deeplift.register import Function, rule

# Of the maximum's change. The multiplier is then at most this much above 1.
AS_GOOD = 1e-3


POOLS: dict[str, Function] = {
    f"{adaptive}max_pool{dims}d": getattr(functional, f"{adaptive}max_pool{dims}d_with_indices")
    for adaptive in ("", "adaptive_")
    for dims in (1, 2, 3)
}
RETURNED = {"max": torch.return_types.max, "min": torch.return_types.min}


@rule(*POOLS, *(f"{name}_with_indices" for name in POOLS), row_wise=True)
def max_pool(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Any:
    """A window's change goes to one entry: the image's largest where the maximum grew, the baseline's where it shrank.

    That entry changed by at least as much and in the same direction, so its multiplier lies in 0..1. Where the image's
    largest was as good as the baseline's it is taken too: inside a blank baseline all entries of a window are alike,
    and which one is the largest is a matter of rounding.
    """
    name = function.__name__.removesuffix("_with_indices")
    returns_places = kwargs.pop("return_indices", False) or function.__name__ != name
    pool, dims = POOLS[name], int(name[-2])
    with torch.no_grad():
        value, where = pool(source.image, *args, **kwargs)
        found = pool(rows_once(source.baseline), *args, **kwargs)
        baseline, baseline_where = (each.expand_as(value) for each in found)
    maps = (source.image.flatten(-dims), source.baseline.flatten(-dims))
    on_image = (value.flatten(-dims), where.flatten(-dims))
    on_baseline = (baseline.flatten(-dims), baseline_where.flatten(-dims))
    chosen, share = (each.view(value.shape) for each in _chosen(maps, on_image, on_baseline))
    largest = Pair(multiplied(chosen, value, share), baseline)
    return (largest, where.as_subclass(Places)) if returns_places else largest


@rule("amax")
def amax(function: Function, source: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """As a pool over whole dimensions."""
    dims = [each % source.ndim for each in (dim if isinstance(dim, (list, tuple)) else [dim])]
    if not dims:
        raise UnsupportedOperation("the model computes the largest or smallest value (`amax`) of a whole batch")
    last = list(range(-len(dims), 0))
    rows = source.movedim(dims, last).flatten(-len(dims))
    with torch.no_grad():
        value, where = rows.image.max(-1, keepdim=True)
        baseline, baseline_where = rows.baseline.max(-1, keepdim=True)
    chosen, share = _chosen((rows.image, rows.baseline), (value, where), (baseline, baseline_where))
    largest: Any = Pair(multiplied(chosen, value, share), baseline)
    kept = largest.reshape(*largest.shape[:-1], *[1] * len(dims)).movedim(last, dims)
    return kept if keepdim else kept.squeeze(dims)


@rule("amin")
def amin(function: Function, source: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """The largest of the opposites."""
    return -torch.amax(-source, dim, keepdim)


@rule("max", "min", pairs=("input", "other"))
def along_a_dim(function: Function, source: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest or smallest values along a dimension, and places that cannot be computed with; or those of two."""
    name = function.__name__
    second = dim if isinstance(dim, torch.Tensor) else other
    if second is not None:
        return (torch.maximum if name == "max" else torch.minimum)(source, second)
    if dim is None:
        raise UnsupportedOperation(f"the model computes `{name}` over a whole batch")
    places = function(source.image.detach(), dim, keepdim).indices.as_subclass(Places)
    values = (torch.amax if name == "max" else torch.amin)(source, dim, keepdim)
    return RETURNED[name]((values, places))


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
