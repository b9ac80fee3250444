"""Two forward passes at once: an image and its baseline go through the model side by side.

A `Pair` is a tensor that holds both values. A model runs on it as it is: every call of torch's public functions that
meets a pair comes to `__torch_function__`, which looks up the rule of that function. A rule gives a new pair whose
image side carries an autograd graph of the rule's *multipliers* in place of derivatives: differentiating the model's
output with respect to the image then gives multipliers m with

    sum(m * (image - baseline)) = output(image) - output(baseline),

which is DeepLIFT's summation to delta (equation 1 of the paper). A function without a rule raises
`UnsupportedOperation` with its name, and so does one with a pair where its rule takes none: nothing is taken for linear
because it is unknown. The model is not touched, and nothing is shared between threads.

A baseline that all images of a batch have in common is one row that is expanded over the batch. Functions that compute
each row by itself compute it `once`; for any other it is copied first, since a view into rows that lie upon each other
could not be changed in place.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.convolutions import Convolutions
from heatmill_workers.engine.deeplift.register import (
    ON_COMPLEX,
    ON_CONDITIONS,
    PAIRS,
    ROW_WISE,
    Function,
    plain_name,
    rule_of,
)

# What a rule raises when it is called in a way that it does not know.
MISUSED = (TypeError, AttributeError, ValueError, LookupError, ArithmeticError, AssertionError, NotImplementedError)


class Pair(torch.Tensor):
    """Values on the image and on the baseline, of one shape; to the model it looks like the image's."""

    image: Tensor
    baseline: Tensor
    # What is known of these images from their passes against other baselines.
    conv_cache: Convolutions | None = None
    # Where this is one over something, that: a product with it is a quotient, whose rule is the better one.
    one_over: "Pair | None" = None
    # Of a view, what it looks into.
    base: "Pair | None" = None
    # Of what was looked into, its views.
    aliases: list["weakref.ref[Pair]"]

    @staticmethod
    def __new__(cls, image: Tensor, baseline: Tensor) -> Self:
        """Put two tensors of one shape side by side."""
        dtype = torch.bool if issubclass(cls, Condition) else image.dtype
        pair: Self = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001 - torch's own way
            cls, image.shape, dtype=dtype, device=image.device, strides=image.stride()
        )
        pair.image, pair.baseline, pair.aliases = image, baseline, []
        return pair

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the rule of a function; see `register.RULES`."""
        name, in_place = plain_name(func)
        options = dict(kwargs or {})
        in_place = bool(options.pop("inplace", False)) or in_place
        found = rule_of(name)
        _refuse_unknown(name, args, options, types)
        given = _as_numbers(name, args, in_place)
        if name not in ROW_WISE:
            _give_rows_of_their_own(args, options)
        try:
            # A value without a graph is followed like any other: the logits depend on it all the same.
            with torch.enable_grad():
                result = found(_out_of_place(func, name) if in_place else func, *given, **options)
                result = _store(name, args[0], result) if in_place else result
        except MISUSED as error:
            raise UnsupportedOperation(
                f"the model computes `{name}` as DeepLIFT's rule here cannot: {error}"
            ) from error
        except RuntimeError as error:
            if not changed_in_place(error):
                raise
            raise UnsupportedOperation(f"the model computes `{name}` on what it changes in place: {error}") from error
        _follow(name, result, list(_pairs((args, options))))
        return Condition(result.image, result.baseline) if _is_kept(name, args) else result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse what reached a pair past torch's public functions."""
        raise UnsupportedOperation(f"the model computes `{func}` past torch's functions; DeepLIFT has no rule for it")


class Condition(Pair):
    """A comparison that depends on the image: 0 or 1 on each side, in the precision of what was compared."""


class Places(torch.Tensor):
    """Where a largest value was found, which depends on the image: nothing can be computed with it."""

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse it."""
        raise UnsupportedOperation(f"the model computes `{plain_name(func)[0]}` with the place of a largest value")


def sides(value: Any) -> tuple[Any, Any]:
    """An argument as it is on the image and on the baseline; lists and dictionaries of pairs are taken apart."""
    return _taken(value, _image), _taken(value, _baseline)


def on_baseline(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], image: Tensor) -> Tensor:
    """A function on the baseline's side of its arguments; for one row, where all rows are one.

    Args:
        function: Computes each row by itself, or is of no `ROW_WISE` name.
        args: With pairs among them.
        kwargs: The same.
        image: What it gave on the image's side.
    """
    with torch.no_grad():
        if all(_is_shared(pair.baseline) for pair in _pairs((args, kwargs))):
            row: Tensor = function(*_taken(args, _one_row), **_taken(kwargs, _one_row))
            if row.shape == (1, *image.shape[1:]):
                return row.expand_as(image)
        found: Tensor = function(*_taken(args, _baseline), **_taken(kwargs, _baseline))
    return found


def rows_once(baseline: Tensor) -> Tensor:
    """One row where all are that one, or else all."""
    return baseline[:1] if _is_shared(baseline) else baseline


def multiplied(source: Tensor, value: Tensor, multiplier: Tensor | None = None) -> Tensor:
    """A value that was computed elsewhere, and whose gradient goes to `source` times a given multiplier."""
    result: Tensor = _Multiplied.apply(source, (value, multiplier))
    return result


class _Multiplied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, given: tuple[Tensor, Tensor | None]) -> Tensor:
        value, ctx.multiplier = given
        # Autograd lets nobody change a view in place that was made here.
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient if ctx.multiplier is None else gradient * ctx.multiplier), None


def _out_of_place(func: Function, name: str) -> Function:
    found = getattr(torch.nn.functional, name, None) or getattr(torch, name, None) or getattr(torch.Tensor, name, None)
    return found or func


def changed_in_place(error: RuntimeError) -> bool:
    """Whether autograd complains of a change in place: it has no class of its own for that."""
    return "inplace" in str(error) or "in-place" in str(error)


def _refuse_unknown(name: str, args: tuple[Any, ...], options: dict[str, Any], types: Any) -> None:
    known = PAIRS[name]
    given: dict[str, Any] = {f"argument {place}": arg for place, arg in enumerate(args) if place >= len(known)}
    given |= {option: value for option, value in options.items() if option not in known}
    for argument, value in given.items():
        if next(_pairs(value), None) is not None:
            raise UnsupportedOperation(f"the model computes `{name}` with {argument} that depends on the image")
    all_pairs = list(_pairs((args, options)))
    refused = {
        "with a comparison that depends on the image": ON_CONDITIONS[name] == "refused"
        and any(isinstance(pair, Condition) for pair in all_pairs),
        "with complex numbers": name not in ON_COMPLEX and any(pair.image.is_complex() for pair in all_pairs),
        "with the place of a largest value": Places in types,
        "under torch.inference_mode()": torch.is_inference_mode_enabled(),
        "into a given tensor": options.get("out") is not None,
    }
    for how, is_so in refused.items():
        if is_so:
            raise UnsupportedOperation(f"the model computes `{name}` {how}")


def _as_numbers(name: str, args: tuple[Any, ...], in_place: bool) -> tuple[Any, ...]:
    """The arguments with 0 and 1 in the place of comparisons, where the function's rule wants them so."""
    conditions = [arg for arg in args if isinstance(arg, Condition)]
    if in_place and isinstance(args[0], Condition):
        raise UnsupportedOperation(f"the model computes `{name}` in place on a comparison")
    if not conditions or ON_CONDITIONS[name] == "followed":
        return args
    return tuple(Pair(arg.image, arg.baseline) if isinstance(arg, Condition) else arg for arg in args)


def _is_kept(name: str, args: tuple[Any, ...]) -> bool:
    return ON_CONDITIONS[name] == "kept" and isinstance(args[0], Condition)


def _taken(value: Any, side: Callable[[Pair], Tensor]) -> Any:
    if isinstance(value, Pair):
        return side(value)
    if isinstance(value, dict):
        return {name: _taken(entry, side) for name, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_taken(entry, side) for entry in value)
    return value


def _image(pair: Pair) -> Tensor:
    return pair.image


def _baseline(pair: Pair) -> Tensor:
    return pair.baseline


def _one_row(pair: Pair) -> Tensor:
    return pair.baseline[:1]


def _give_rows_of_their_own(args: tuple[Any, ...], options: dict[str, Any]) -> None:
    for pair in _pairs((args, options)):
        if _is_shared(pair.baseline):
            pair.baseline = torch.empty_like(pair.image).copy_(pair.baseline)


def _is_shared(baseline: Tensor) -> bool:
    return baseline.ndim > 0 and len(baseline) > 1 and baseline.stride(0) == 0


def _pairs(value: Any) -> Iterator[Pair]:
    if isinstance(value, Pair):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _pairs(entry)


def _store(name: str, target: Any, result: Pair) -> Pair:
    """Write a result into the pair it was computed from."""
    if not isinstance(target, Pair):
        raise UnsupportedOperation(
            f"the model computes `{name}` in place on a constant, with what depends on the image"
        )
    shared = target.image._base is not None or any(view() is not None for view in target.aliases)  # noqa: SLF001
    # A result that looks into the target, as of `unsqueeze_`, changes no value.
    if shared and _base(result.image) is not _base(target.image):
        # What shares the values must change too; autograd follows a copy into a view, and out of what has views.
        target.image.copy_(result.image)
        target.baseline.copy_(result.baseline)
    else:
        target.image, target.baseline = result.image, result.baseline
    _root(target).one_over = None
    return target


def _follow(name: str, result: Any, sources: list[Pair]) -> None:
    """Make sure that a result hangs on the image, and note what it is a view of."""
    for pair in _pairs(result):
        if not pair.image.requires_grad:
            raise UnsupportedOperation(f"the model computes `{name}`, which loses how its result depends on the image")
        if any(pair is source for source in sources):
            continue
        pair.conv_cache = next((source.conv_cache for source in sources if source.conv_cache), None)
        for source in sources:
            if _base(pair.image) is _base(source.image):
                pair.base = _root(source)
                pair.base.aliases.append(weakref.ref(pair))


def _root(pair: Pair) -> Pair:
    return pair if pair.base is None else pair.base


def _base(tensor: Tensor) -> Tensor:
    return tensor if tensor._base is None else tensor._base  # noqa: SLF001 - the only way to know
