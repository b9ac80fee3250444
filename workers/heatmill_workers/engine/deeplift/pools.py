"""Rules for max pools.

Windows may overlap, and each one's share is added: the gradient of `gather` is a scatter-add. (captum's and shap's
`max_unpool` keeps one share of several.)
"""

from typing import Any

import torch
from torch.nn import functional

from heatmill_workers.engine.deeplift.pairs import Function, Pair, multiplied, rule


@rule("max_pool2d")
def max_pool2d(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Pair:
    """A window's change goes to one entry: the image's largest where the maximum grew, the baseline's where it shrank.

    That entry changed by at least as much and in the same direction, so its multiplier lies in 0..1.
    """
    kwargs.pop("return_indices", None)
    return _routed(functional.max_pool2d_with_indices, source, args, kwargs)


@rule("adaptive_max_pool2d")
def adaptive_max_pool2d(function: Function, source: Pair, *args: Any, **kwargs: Any) -> Pair:
    """As `max_pool2d`."""
    kwargs.pop("return_indices", None)
    return _routed(functional.adaptive_max_pool2d_with_indices, source, args, kwargs)


def _routed(pool: Function, source: Pair, args: Any, kwargs: Any) -> Pair:
    with torch.no_grad():
        value, where = pool(source.image, *args, **kwargs)
        baseline, baseline_where = pool(source.baseline, *args, **kwargs)
        entries = torch.where(value >= baseline, where, baseline_where).flatten(2)
        start = source.baseline.flatten(2).gather(2, entries)
    chosen = source.image.flatten(2).gather(2, entries)
    with torch.no_grad():
        step = chosen - start
        share = torch.where(step == 0, 1, (value - baseline).flatten(2) / torch.where(step == 0, 1, step))
    return Pair(multiplied(chosen, value.flatten(2), share).view(value.shape), baseline)
