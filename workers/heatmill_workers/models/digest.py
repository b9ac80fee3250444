"""What tells a model's weights from others, however they are stored."""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from heatmill_workers.engine.dense_parts import dense_parts

# Some modules print where in memory a function lies.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def digest(module: nn.Module) -> str:
    """The sha256 over the sorted state dict: names, dtypes, shapes and bytes; of what is no tensor, how it prints.

    Raises:
        ModelRefused: The numbers in a tensor cannot be read; the message names it.
    """
    total = hashlib.sha256()
    for name, value in sorted(_entries(module.state_dict()), key=lambda entry: entry[0]):
        if isinstance(value, Tensor):
            total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            total.update(_content(name, value))
        else:
            total.update(f"{name} {value}\n".encode())
    return total.hexdigest()


def described(value: object) -> str:
    """How a value prints, without the addresses in memory, which are others in each process."""
    return ADDRESS.sub("", repr(value))


def _entries(value: Any, name: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each plain tensor in a state dict by its name, and what prints the same in each process."""
    if isinstance(value, Tensor):
        yield from _of_tensor(value, name)
    elif isinstance(value, (np.ndarray, np.generic)):
        # NumPy prints the ends of a long array only.
        yield name, (str(value.dtype), value.shape, hashlib.sha256(repr(value.tolist()).encode()).hexdigest())
    elif isinstance(value, io.BytesIO):
        yield name, hashlib.sha256(value.getvalue()).hexdigest()
    elif isinstance(value, (set, frozenset)):
        yield name, sorted(map(repr, value))
    elif (parts := _parts(value)) is not None and id(value) not in around:
        yield from (
            entry
            for key, part in parts.items()
            for entry in _entries(part, f"{name}.{key}" if name else str(key), (*around, id(value)))
        )
    else:
        yield name, _printed(value)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """What a container or an object without a text of its own holds."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if _has_no_text(value) and hasattr(value, "__dict__"):
        return {"type": type(value).__qualname__, **vars(value)}
    return None


def _printed(value: Any) -> str:
    if _has_no_text(value) or isinstance(value, (FunctionType, MethodType)):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return repr(value)


def _has_no_text(value: Any) -> bool:
    inherited: Any = object.__repr__
    return type(value).__repr__ is inherited


def _of_tensor(tensor: Tensor, name: str) -> Iterator[tuple[str, Any]]:
    if tensor.is_meta:
        yield name, repr(tensor)
        return
    parts = dense_parts(tensor)
    if "" not in parts:
        yield f"{name}.layout", (type(tensor).__name__, tensor.layout, _shape(tensor))
    yield from ((f"{name}{part}", plain) for part, plain in parts.items())


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return () if tensor.is_nested else tuple(tensor.shape)


def _content(name: str, tensor: Tensor) -> memoryview:
    try:
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        content: Any = plain.reshape(-1).view(torch.uint8).numpy()
    # The many kinds of tensors that libraries make have no error in common.
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise ModelRefused(
            f"the model cannot be explained, since the numbers in {name} ({type(tensor).__name__}, {tensor.layout}) "
            f"cannot be read: {str(error).partition(chr(10))[0]}"
        ) from error
    return memoryview(content)
