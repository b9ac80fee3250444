"""Whether a model's outputs depend on how often it ran.

Numbers and integer tensors that change from one run to an equal next one count something. A proof of a few dozen runs
does not see what happens after a thousand, so they are put far ahead, and the outputs have to stay.
"""

import sys
from collections.abc import Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from heatmill_workers.engine.batching import is_out_of_memory
from heatmill_workers.models.proof.comparison import Reference
from heatmill_workers.models.proof.inputs import NOISE
from heatmill_workers.models.proof.runs import FAILED, Runs

FAR_AHEAD = 1_000_000
# Of a tensor; a larger one is a table.
LARGEST = 1024
# What torch keeps in a module's dictionary.
OF_TORCH = frozenset(vars(nn.Module()))
Numbers = dict[str, object]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a number is kept: an entry of a dictionary, an item of a list, an attribute of a class, or a tensor."""

    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        """A number, or a tensor."""
        if isinstance(self.holder, Tensor):
            return self.holder
        return getattr(self.holder, self.key) if isinstance(self.holder, type) else self.holder[self.key]

    def put(self, value: Any) -> None:
        """Another number, or the numbers of a tensor."""
        if isinstance(self.holder, Tensor):
            self.holder.data.copy_(value)
        elif isinstance(self.holder, type):
            setattr(self.holder, self.key, value)
        else:
            self.holder[self.key] = value


def numbers(module: nn.Module) -> Numbers:
    """Every number and every small integer tensor that a module, its classes and its files keep, by name."""
    return {name: _read(place.value) for name, place in _places(module)}


def own_kinds(module: nn.Module) -> set[type]:
    """The classes of a module and of its parts, torch's own left out."""
    kinds = {kind for part in module.modules() for kind in type(part).__mro__}
    return {kind for kind in kinds if kind is not object and kind.__module__.partition(".")[0] != "torch"}


def check_counters(runs: Runs, module: nn.Module, images: Tensor, wanted: Reference, before: Numbers) -> None:
    """Refuse a model that counts its runs, and whose outputs depend on that.

    Three runs of one row for a model in which a number has changed since it was built; none for others.

    Args:
        runs: Of the model.
        module: The same.
        images: (5, C, H, W), as `proof_images` makes them.
        wanted: What a run on them gave.
        before: What `numbers` were before the first run.

    Raises:
        ModelRefused: The message names what counts.
    """
    if numbers(module) == before:
        return
    image = images[[NOISE]]
    runs(image)
    earlier = numbers(module)
    runs(image)
    counting = [(name, place) for name, place in _places(module) if earlier.get(name) != _read(place.value)]
    found = _run_far_ahead(runs, image, [place for _, place in counting])
    if found is not None and not wanted.is_met(found, (NOISE,)):
        names = ", ".join(name for name, _ in counting)
        raise ModelRefused(
            f"model {runs.name} cannot be explained, since it counts ({names}) what it runs on, and after many runs "
            f"its outputs for the same image change by {wanted.change(found, (NOISE,))}"
        )


def _run_far_ahead(runs: Runs, image: Tensor, counting: list[Place]) -> Tensor | None:
    """The outputs after many runs; None where the model then raises, and makes no heatmap, or where nothing counts."""
    kept = [(place, _copy(place.value)) for place in counting]
    try:
        for place, value in kept:
            place.put(_far_ahead(value))
        return runs(image) if kept else None
    except FAILED as error:
        if is_out_of_memory(error):
            raise
        return None
    finally:
        for place, value in kept:
            place.put(value)


def _places(module: nn.Module) -> Iterator[tuple[str, Place]]:
    yield from ((name, Place(buffer, None)) for name, buffer in module.named_buffers() if _is_number(buffer))
    for name, part in module.named_modules():
        yield from _within(vars(part), f"{name}." if name else "")
    kinds = own_kinds(module)
    for kind in kinds:
        keys = [key for key, value in vars(kind).items() if _is_number(value)]
        yield from ((f"{kind.__qualname__}.{key}", Place(kind, key)) for key in keys)
    for name in {kind.__module__ for kind in kinds} & set(sys.modules):
        yield from _within(vars(sys.modules[name]), f"{name}.", depth=0)


def _within(holder: Any, prefix: str, depth: int = 2) -> Iterator[tuple[str, Place]]:
    entries = list(holder.items() if isinstance(holder, MutableMapping) else enumerate(holder))
    for key, value in entries:
        if key in OF_TORCH:
            continue
        if _is_number(value):
            yield f"{prefix}{key}", Place(holder, key)
        elif depth and isinstance(value, (MutableMapping, MutableSequence)):
            yield from _within(value, f"{prefix}{key}.", depth - 1)


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        is_dense = value.layout is torch.strided and not value.is_meta and not value.is_quantized
        return is_dense and not value.is_floating_point() and not value.is_complex() and value.numel() <= LARGEST
    return isinstance(value, (int, float))


def _read(value: Any) -> object:
    return value.tolist() if isinstance(value, Tensor) else value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _far_ahead(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return ~value if isinstance(value, Tensor) else not value
    if not isinstance(value, Tensor):
        return value + FAR_AHEAD
    # As far as its type goes, and on.
    return torch.full_like(value, min(FAR_AHEAD, torch.iinfo(value.dtype).max // 2))
