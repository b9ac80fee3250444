"""What a forward pass calls: what draws random numbers, what mixes rows, what branches, and in which precision."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from heatmill_workers.engine.introspection.tail import shape_of

DRAWS = frozenset(
    """
    rand rand_like randn randn_like randint randint_like randperm bernoulli bernoulli_ normal normal_ uniform_
    multinomial poisson exponential_ random_ cauchy_ geometric_ log_normal_ gumbel_softmax native_dropout
    """.split()  # noqa: SIM905 - as a list each name would take a line
)
# These draw only where they are told that the model trains, which is what some of them take for granted.
DRAWS_IN_TRAINING = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    functional.rrelu,
)
BRANCHES = frozenset({"__bool__", "item", "tolist", "__float__", "__int__", "__index__", "numpy"})
REDUCTIONS = frozenset(
    """
    all any mean nanmean sum nansum prod std var std_mean var_mean amax amin max min aminmax argmax argmin median
    nanmedian mode quantile norm count_nonzero nonzero argwhere unique logsumexp equal allclose
    """.split()  # noqa: SIM905 - as a list each name would take a line
)
OVER_DIMENSIONS = REDUCTIONS | {"softmax", "log_softmax", "roll", "flip", "cumsum", "sort"}
# Without a dimension: whatever follows their first argument, they look at all rows.
OVER_ALL = frozenset({"nonzero", "argwhere", "unique", "equal", "allclose", "count_nonzero", "quantile"})
BATCH_STATISTICS = "batch norm with the statistics of the batch"
LOW_PRECISION = (torch.float16, torch.bfloat16)


class Calls(TorchFunctionMode):
    """Notes what one or more forward passes call.

    Attributes:
        draws: Names of functions that draw random numbers, in the order of their first calls.
        mixes: Names of functions that look across the rows of a batch.
        branches: Whether a tensor became a number of Python's, on which the model may decide what it does next.
        dtype: The lowest precision of a result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[str] = []
        self.mixes: list[str] = []
        self.branches = False
        self.dtype = torch.float32

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in DRAWS or (func in DRAWS_IN_TRAINING and _argument(func, "training", args, options)):
            self._note(self.draws, name)
        if func is functional.batch_norm:
            self._look_at_norm(args, options)
        elif name in OVER_DIMENSIONS and crosses_rows(name, args, options):
            self._note(self.mixes, name)
        self.branches |= name in BRANCHES
        out = func(*args, **options)
        if isinstance(out, Tensor) and out.dtype in LOW_PRECISION:
            self.dtype = out.dtype
        return out

    def _look_at_norm(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = [_argument(functional.batch_norm, name, args, options) for name in ("training", "running_mean")]
        # Before anything else that looks across rows: it is what most people will have to mend.
        if (given[0] or given[1] is None) and BATCH_STATISTICS not in self.mixes:
            self.mixes.insert(0, BATCH_STATISTICS)

    def _note(self, names: list[str], name: str) -> None:
        if name not in names:
            names.append(name)


def _argument(func: Callable[..., Any], name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    try:
        bound = signature(func).bind(*args, **options)
    # The call itself is wrong, and will say so.
    except TypeError:
        return None
    bound.apply_defaults()
    return bound.arguments.get(name)


def crosses_rows(name: str, args: tuple[Any, ...], options: Mapping[str, Any], rows: int | None = None) -> bool:
    """Whether a call of one of `OVER_DIMENSIONS` goes over the first dimension of a tensor.

    Args:
        name: Of the function.
        args: Of the call.
        options: Of the call.
        rows: So many of them, or so many groups of as many; None for any number from two.
    """
    if not args or (shape := shape_of(args[0])) is None or not shape or shape[0] < (rows or 2):
        return False
    if rows is not None and shape[0] % rows:
        return False
    if name in OVER_ALL:
        return True
    dim = options.get("dim", options.get("dims", args[-1] if len(args) > 1 else None))
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    # The larger of two tensors is no reduction: what follows the first is no dimension then.
    return any(each is None or (isinstance(each, int) and each in {0, -args[0].ndim}) for each in dims)
