"""Two forward passes at once: an image and its baseline go through the model side by side.

A `Pair` is a tensor that holds both values. A model runs on it as it is: every call of torch's public functions that
meets a pair comes to `__torch_function__`, which looks up the rule of that function. A rule gives a new pair whose
image side carries an autograd graph of the rule's *multipliers* in place of derivatives: differentiating the model's
output with respect to the image then gives multipliers m with

    sum(m * (image - baseline)) = output(image) - output(baseline),

which is DeepLIFT's summation to delta (equation 1 of the paper). A function without a rule raises
`UnsupportedOperation` with its name: nothing is taken for linear because it is unknown. The model is not touched, and
nothing is shared between threads.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation

Function = Callable[..., Any]
Rule = Callable[..., Any]

IN_PLACE_OPERATORS = {
    "__iadd__": "__add__",
    "__isub__": "__sub__",
    "__imul__": "__mul__",
    "__itruediv__": "__truediv__",
    "__setitem__": "__setitem__",
}


class Pair(torch.Tensor):
    """Values on the image and on the baseline, of one shape; to the model it looks like the image's."""

    image: Tensor
    baseline: Tensor
    # Where this is one over something, that: a product with it is a quotient, whose rule is the better one.
    one_over: "Pair | None" = None

    @staticmethod
    def __new__(cls, image: Tensor, baseline: Tensor) -> Self:
        """Put two tensors of one shape side by side."""
        pair: Self = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001 - torch's own way
            cls, image.shape, dtype=image.dtype, device=image.device, strides=image.stride()
        )
        pair.image, pair.baseline = image, baseline
        return pair

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the rule of a function; see `RULES`."""
        name, in_place = plain_name(func)
        options = dict(kwargs or {})
        in_place = bool(options.pop("inplace", False)) or in_place
        rule = RULES.get(name)
        if rule is None:
            raise UnsupportedOperation(f"the model computes `{name}`, for which DeepLIFT has no rule here")
        if not in_place:
            return rule(func, *args, **options)
        return _store(args[0], rule(_out_of_place(func, name), *args, **options))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse what reached a pair past torch's public functions."""
        raise UnsupportedOperation(f"the model computes `{func}` past torch's functions; DeepLIFT has no rule for it")


RULES: dict[str, Rule] = {}
"""By a function's name without what marks it as in-place. A rule is called as rule(function, *args, **kwargs)."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for functions of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def plain_name(func: Function) -> tuple[str, bool]:
    """A function's name without what marks it as in-place, and whether it was marked."""
    name: str = func.__name__
    if name == "__get__":
        return str(func.__self__.__name__), False  # type: ignore[attr-defined]
    if name in IN_PLACE_OPERATORS:
        return IN_PLACE_OPERATORS[name], True
    if name.endswith("_") and not name.endswith("__"):
        return name.removesuffix("_"), True
    return name, False


def sides(value: Any) -> tuple[Any, Any]:
    """An argument as it is on the image and on the baseline; lists and dictionaries of pairs are taken apart."""
    if isinstance(value, Pair):
        return value.image, value.baseline
    if isinstance(value, dict):
        both = {name: sides(entry) for name, entry in value.items()}
        return {name: one for name, (one, _) in both.items()}, {name: other for name, (_, other) in both.items()}
    if type(value) in (list, tuple):
        entries = [sides(entry) for entry in value]
        return type(value)(one for one, _ in entries), type(value)(other for _, other in entries)
    return value, value


def multiplied(source: Tensor, value: Tensor, multiplier: Tensor | None = None) -> Tensor:
    """A value that was computed elsewhere, and whose gradient goes to `source` times a given multiplier."""
    result: Tensor = _Multiplied.apply(source, (value, multiplier))
    return result


class _Multiplied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, given: tuple[Tensor, Tensor | None]) -> Tensor:
        value, ctx.multiplier = given
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient if ctx.multiplier is None else gradient * ctx.multiplier), None


def _out_of_place(func: Function, name: str) -> Function:
    found = getattr(torch.nn.functional, name, None) or getattr(torch, name, None) or getattr(torch.Tensor, name, None)
    return found or func


def _store(target: Pair, result: Pair) -> Pair:
    """Write a result into the pair it was computed from."""
    if target.image._is_view():  # noqa: SLF001 - the only way to know
        # The tensor that is looked into must change too; autograd follows a copy into a view.
        target.image.copy_(result.image)
        target.baseline.copy_(result.baseline)
    else:
        target.image, target.baseline = result.image, result.baseline
    target.one_over = None
    return target
