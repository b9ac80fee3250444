"""The random numbers of Python and NumPy, which torch does not see: a model's own generators, and the process'."""

import random
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

States = dict[str, object]


def generators(module: nn.Module) -> Callable[[], States]:
    """What tells where the generators stand that a module may draw from.

    Those are the process' own, those that its parts hold, and those of the files that its parts are written in.

    Args:
        module: Any; one that is compiled has no parts that could hold any.
    """
    found = {f"{name} ({type(value).__name__})": value for name, value in _held(module)}

    def states() -> States:
        named = {"Python's random": random.getstate(), "numpy.random": _of_numpy(np.random.get_state(legacy=False))}
        return named | {name: _state(value) for name, value in found.items()}

    return states


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for part in module.modules():
        files = (sys.modules.get(kind.__module__) for kind in type(part).__mro__)
        named = (vars(each).items() for each in (part, *files) if each is not None)
        for name, value in chain.from_iterable(named):
            if isinstance(value, (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)):
                yield name, value


def _state(generator: Any) -> object:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.RandomState):
        return _of_numpy(generator.get_state(legacy=False))
    return str(generator.bit_generator.state)


def _of_numpy(state: Any) -> object:
    numbers = state["state"]
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in numbers.values()]
