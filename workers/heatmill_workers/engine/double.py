"""A model in double precision for a while, whatever precision it was written in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TO_DOUBLE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
CASTS = frozenset({"float", "half", "bfloat16"})


class InDouble(TorchFunctionMode):
    """Computes in float64 what is written in less: no call rounds a value, and none makes a tensor of less.

    Calls inside of compiled parts are not seen.

    Attributes:
        called: The names of all functions that were called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.called.add(name)
        if name in CASTS and args and isinstance(args[0], Tensor):
            return _doubled(args[0])
        found = _call(func, tuple(map(_wanted, args)), {key: _wanted(each) for key, each in (kwargs or {}).items()})
        # `is_floating_point` is such an attribute, `data` another.
        return _doubled(found) if isinstance(found, Tensor) and name != "__get__" else found


@contextmanager
def in_double(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers in float64; they come back as they were, and so does what a module keeps of a pass.

    Only for a model that no other thread uses.
    """
    weights = list(_weights(module))
    kept = [(tensor, tensor.dtype) for tensor in weights]
    with _unchanged_attributes(module):
        try:
            for tensor in weights:
                tensor.data = _doubled(tensor.data)
            yield
        finally:
            for tensor, dtype in kept:
                # Numbers of less precision come back exactly.
                tensor.data = tensor.data.to(dtype)


def _call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call gives; a tensor that a module keeps beside its weights may be of less precision than these."""
    try:
        return func(*args, **kwargs)
    except RuntimeError:
        # One that writes would write into the copy.
        if getattr(func, "__name__", "_").endswith("_"):
            raise
        return func(*map(_in_full, args), **{key: _in_full(each) for key, each in kwargs.items()})


def _in_full(value: Any) -> Any:
    """An argument in double precision: a tensor, or a list of them."""
    if isinstance(value, list | tuple):
        return type(value)(map(_in_full, value)) if type(value) in {list, tuple} else value
    return _doubled(value) if isinstance(value, Tensor) else value


def _doubled(tensor: Tensor) -> Tensor:
    dtype = TO_DOUBLE.get(tensor.dtype)
    return tensor if dtype is None else tensor.to(dtype)


def _wanted(value: Any) -> Any:
    """An argument that is a dtype; others as they are."""
    return TO_DOUBLE.get(value, value) if isinstance(value, torch.dtype) else value


def _weights(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


@contextmanager
def _unchanged_attributes(module: nn.Module) -> Iterator[None]:
    """A module may keep grids and masks of the size and the precision that it saw last."""
    kept = [(vars(part), dict(vars(part)), _containers(part)) for part in module.modules()]
    try:
        yield
    finally:
        for own, before, containers in kept:
            for name in [name for name in own if name not in before]:
                del own[name]
            own.update(before)
            for name, content in containers.items():
                own[name].clear()
                own[name].extend(content) if isinstance(content, list) else own[name].update(content)


def _containers(part: nn.Module) -> dict[str, dict[Any, Any] | list[Any]]:
    return {name: value.copy() for name, value in vars(part).items() if type(value) in {dict, list}}
