"""Every public way to call one of torch's functions."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

OWNERS = {"torch": torch, "Tensor": Tensor, "functional": functional}
FAMILIES = {"special": torch.special, "linalg": torch.linalg, "fft": torch.fft}
# Where the public function has another name.
PUBLIC: dict[str, dict[str, Callable[..., Any]]] = {
    "_threshold": {"functional.threshold": functional.threshold},
    "log_sigmoid": {"functional.logsigmoid": functional.logsigmoid},
}


def ways(name: str) -> dict[str, Callable[..., Any]]:
    """By a function of this name, in its module or as a method, and by one with an underscore behind the name."""
    family, _, rest = name.partition("_")
    if family in FAMILIES:
        return {f"{family}.{rest}": getattr(FAMILIES[family], rest)}
    found = dict(PUBLIC.get(name, {}))
    for where, owner in OWNERS.items():
        for each in (name, f"{name}_"):
            entry = getattr(owner, each, None)
            if callable(entry):
                found[f"{where}.{each}"] = entry
            elif inspect.isgetsetdescriptor(entry) or isinstance(entry, property):
                found[f"{where}.{each}"] = partial(_got, each)
    return found


def _got(name: str, source: Tensor) -> Any:
    return getattr(source, name)
