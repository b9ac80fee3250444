"""Whether a model keeps something of the images that it sees, and its outputs for others depend on it.

What a first batch leaves in an attribute, a list or a dictionary is none of the weights: each worker would keep another
one. So what the model has kept is taken away, it sees another image first, and the outputs have to stay.
"""

import sys
from collections.abc import Iterator, MutableMapping, MutableSequence
from typing import Any

import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from heatmill_workers.models.proof.comparison import Reference
from heatmill_workers.models.proof.counters import own_kinds
from heatmill_workers.models.proof.inputs import NOISE, SECOND_PHOTO
from heatmill_workers.models.proof.runs import FAILED, Runs

# A container, and what it held.
Held = list[tuple[Any, Any]]
# What their classes and files hold is not one model's.
LIBRARIES = frozenset({"torchvision", "timm", "transformers", "heatmill_workers"})
# Of containers in containers.
DEPTH = 2


def held(module: nn.Module) -> Held:
    """What the containers of a module, its classes and its files hold."""
    found = {id(each): each for each in _containers(module)}
    return [(each, dict(each) if isinstance(each, MutableMapping) else list(each)) for each in found.values()]


def check_memories(runs: Runs, module: nn.Module, images: Tensor, wanted: Reference, before: Held) -> None:
    """Refuse a model whose outputs depend on the images that it saw first.

    Two runs of one row for a model that has kept anything since it was built; none for others.

    Args:
        runs: Of the model.
        module: The same.
        images: (5, C, H, W), as `proof_images` makes them.
        wanted: What a run on them gave.
        before: What `held` was before the first run.

    Raises:
        ModelRefused: They do.
    """
    if all(_is_the_same(container, content) for container, content in before):
        return
    kept = held(module)
    for container, content in before:
        _put_back(container, content)
    try:
        runs(images[[SECOND_PHOTO]])
        found = runs(images[[NOISE]])
    except FAILED:
        # It does not run on one of them alone, which is told elsewhere.
        return
    finally:
        for container, content in kept:
            _put_back(container, content)
    if not wanted.is_met(found, (NOISE,)):
        raise ModelRefused(
            f"model {runs.name} cannot be explained, since it keeps something of the images that it sees first, and "
            f"its outputs for another one then change by {wanted.change(found, (NOISE,))}; compute it from the image "
            f"at hand, or put it into the weights"
        )


def _containers(module: nn.Module) -> Iterator[Any]:
    for part in module.modules():
        if not isinstance(part, torch.jit.ScriptModule):
            yield from _within(vars(part))
    own = [kind for kind in own_kinds(module) if kind.__module__.partition(".")[0] not in LIBRARIES]
    for kind in own:
        for value in list(vars(kind).values()):
            yield from _within(value, DEPTH - 1)
    for name in {kind.__module__ for kind in own} & set(sys.modules):
        yield from _within(vars(sys.modules[name]), 1)


def _within(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    if not isinstance(value, (MutableMapping, MutableSequence)):
        return
    yield value
    if depth:
        for each in list(value.values() if isinstance(value, MutableMapping) else value):
            yield from _within(each, depth - 1)


def _is_the_same(container: Any, content: Any) -> bool:
    if len(container) != len(content):
        return False
    if isinstance(content, dict):
        return all(container.get(key, container) is value for key, value in content.items())
    return all(one is other for one, other in zip(container, content, strict=True))


def _put_back(container: Any, content: Any) -> None:
    """Change what differs, and nothing else: others may look at it."""
    if _is_the_same(container, content):
        return
    if isinstance(content, list):
        container[:] = content
        return
    for key in [key for key in container if key not in content]:
        del container[key]
    for key, value in content.items():
        if container.get(key, container) is not value:
            container[key] = value
