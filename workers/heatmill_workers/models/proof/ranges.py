"""Between which bounds a model's outputs lie, whatever the image: `intervals` on one forward pass.

A `TorchFunctionMode` sees each call of the current thread, and applies the rule of its function.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf, prod
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from heatmill_workers.engine.introspection.tail import is_wrapped, shape_of
from heatmill_workers.models.proof.intervals import (
    ALL,
    ARITHMETIC,
    CLAMPS,
    COSINE,
    JOINS,
    PRODUCTS,
    Range,
    clamp_bounds,
    range_of,
)

COSINES = {"linear", *PRODUCTS}
LENGTH_IS_1 = 1e-3
SHAPED = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor"}
RANDOM = ("rand", "normal", "bernoulli", "multinomial", "poisson")


class Ranges(TorchFunctionMode):
    """Follows the ranges of what one thread computes; what cannot be looked at has a range that is not known."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._known = WeakTensorKeyDictionary()
        self._known[images] = ALL
        self._is_blind = False

    def of(self, tensor: Tensor) -> Range | None:
        """The range of a result; None where it has no bounds that are known."""
        if tensor not in self._known:
            return None
        found: Range | None = self._known[tensor]
        return found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, plain_name(func)
        # Before the call, which may change its arguments in place.
        given = (args, kwargs.get("input"), kwargs.get("other"), kwargs.get("tensors"))
        operands = self._written(*args) if name == "setitem" else self._operands(name, given)
        is_constant = self._is_constant(name, (args, list(kwargs.values())))
        out = func(*args, **kwargs)
        if is_constant:
            return out
        if name == "setitem":
            self._known[args[0]] = range_of(name, operands)
            return out
        found = COSINE if name in COSINES and _are_cosines(args) else None
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor):
                self._known[each] = found or _range(name, operands, (args, kwargs), each)
                self._write_through(each, args)
        return out

    def _written(self, target: Tensor, _index: object, value: Tensor | float) -> list[Range | None]:
        """The ranges of a tensor and of what is written into a part of it; a number is padding."""
        found = self._operand(value)
        return [self._operand(target), replace(found, is_number=False) if found and found.is_number else found]

    def _write_through(self, changed: Tensor, args: tuple[Any, ...]) -> None:
        """What changes a part of a tensor in place changes the tensor."""
        whole = changed._base  # noqa: SLF001
        if whole is not None and args and changed is args[0]:
            self._known[whole] = range_of("setitem", [self._operand(whole), self.of(changed)])

    def _is_constant(self, name: str, given: Any) -> bool:
        """Whether the result is the same for every image: made of constants alone, or of a tensor's shape."""
        if name in SHAPED:
            return True
        depends = any(self._depends(each) for each in _flat(given) if isinstance(each, Tensor))
        return not depends and not name.startswith(RANDOM)

    def _depends(self, tensor: Tensor) -> bool:
        """Whether a tensor may depend on the image: no call is seen to make those of `vmap`."""
        self._is_blind |= is_wrapped(tensor)
        return tensor in self._known or (self._is_blind and not isinstance(tensor, nn.Parameter))

    def _operands(self, name: str, values: Any) -> list[Range | None]:
        """The ranges of what a rule reads: only arithmetic reads numbers; that, joins and products read constants."""
        if name in ARITHMETIC or name in JOINS or name in PRODUCTS:
            found = [self._operand(each) for each in _flat(values) if not _is_empty(each)]
            return found if name in ARITHMETIC else [each for each in found if each is None or not each.is_number]
        return [self.of(each) for each in _flat(values) if isinstance(each, Tensor) and self._depends(each)]

    def _operand(self, value: Tensor | float) -> Range | None:
        if not isinstance(value, Tensor):
            return Range(value, value, constant=True, is_number=True)
        # What does not depend on the image was computed by nobody: a parameter, a buffer or a constant.
        return self.of(value) if self._depends(value) else _of_constant(value)


def _is_empty(value: Tensor | float) -> bool:
    shape = shape_of(value)
    return shape is not None and not prod(shape)


def _of_constant(value: Tensor) -> Range | None:
    try:
        return Range(float(value.min()), float(value.max()), constant=True)
    # Of empty, sparse, nested, complex and meta tensors, and whatever kinds there may be.
    except (RuntimeError, TypeError, ValueError):
        return None


def _are_cosines(args: tuple[Any, ...]) -> bool:
    """Whether a product is that of vectors of length 1 with others: of (N, D) with (K, D), or with (D, K)."""
    try:
        # Behind the letters of `einsum`.
        return _have_length_1(tuple(each for each in args if not isinstance(each, str)))
    except (RuntimeError, TypeError, ValueError):
        return False


def _have_length_1(args: tuple[Any, ...]) -> bool:
    if len(args) < 2 or any(not isinstance(each, Tensor) or each.ndim != 2 for each in args[:2]):
        return False
    if len(args) > 2 and args[2] is not None:
        return False
    rows, others = args[:2]
    if rows.shape[1] != others.shape[-1] and rows.shape[1] != others.shape[0]:
        return False
    lengths = [rows.norm(dim=1), others.norm(dim=1 if rows.shape[1] == others.shape[1] else 0)]
    return all(bool(((each - 1).abs() < LENGTH_IS_1).all()) for each in lengths)


def plain_name(func: Callable[..., Any]) -> str:
    """`softmax` of `Tensor.softmax`, `softmax_` and the `softmax.int` of an exported graph."""
    return getattr(func, "__name__", "").split(".")[0].strip("_")


def _flat(value: Any) -> Iterable[Tensor | float]:
    """Tensors and numbers, in order; not those of options."""
    if isinstance(value, Tensor) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _flat(each)


def _range(name: str, operands: list[Range | None], call: tuple[Any, Any], out: Tensor) -> Range | None:
    args, kwargs = call
    if kwargs.get("alpha", 1) != 1:
        return None
    bounds = clamp_bounds(name, args[1:], kwargs) if name in CLAMPS else ALL
    return range_of(name, operands, bounds=bounds, count=_count(args, out) if name == "sum" else inf)


def _count(args: tuple[Any, ...], out: Tensor) -> float:
    """How many numbers make one of the result."""
    given, made = shape_of(args[0]) if args else None, shape_of(out)
    return inf if given is None or made is None else prod(given) / max(prod(made), 1)
