"""Where a forward pass is cut: the calls that are counted, and the one that Grad-CAM reads."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from heatmill_workers.engine.introspection.locality import CHANNELS_FIRST, Reading
from heatmill_workers.engine.introspection.tail import is_wrapped

# The name of a function that is not seen.
HIDDEN = "a function of the model's own"


class Place(NamedTuple):
    """Which call of a pass it is, whatever others there are: a model may call more or fewer for another batch.

    Args:
        name: Of the function.
        sizes: What it puts out, (N, ...) without N.
        number: Which one of the calls of that name and these sizes.
    """

    name: str
    sizes: tuple[int, ...]
    number: int


@dataclass(frozen=True)
class CamLayer:
    """Where Grad-CAM reads.

    Args:
        call: Which of the counted calls puts it out.
        shape: (C, h, w).
        reading: Which axes of the call's output these are.
        place: How the call is found again.
        alike: How many calls of a pass have its name and sizes.
    """

    call: int
    shape: tuple[int, int, int]
    reading: Reading = CHANNELS_FIRST
    place: Place = field(default=Place("", (), 0), compare=False)
    alike: int = field(default=1, compare=False)


class Counted(TorchFunctionMode):
    """Sees every call of a forward pass, and counts those that put out four dimensions, whatever their sizes.

    A function of the model's own, an `autograd.Function` or one in TorchScript, is not seen. What it puts out is
    counted when another call takes it. The pass runs with gradients enabled, also where no graph is wanted.
    """

    def __init__(self) -> None:
        super().__init__()
        # What calls have put out, and what goes on in place of what was hidden.
        self._known = WeakIdKeyDictionary()
        self.count = 0
        self.alike: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self.place = Place("", (), 0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        taken = {name: self._revealed(value) for name, value in (kwargs or {}).items()}
        out = func(*map(self._revealed, args), **taken)
        name = getattr(func, "__name__", "")
        if not torch.is_grad_enabled():
            # Inside of an `autograd.Function`, which puts out the same tensor as part of the graph.
            self.see(name, out)
            return out
        for each in tensors(out):
            self._known[each] = None
        if not isinstance(out, Tensor) or not _is_countable(out):
            self.see(name, out)
            return out
        return self._counted(name, out)

    def _revealed(self, value: Any) -> Any:
        """An argument; in place of what a hidden function put out, what the model is to go on with."""
        if isinstance(value, (list, tuple)) and any(isinstance(each, Tensor) for each in value):
            parts = [self._revealed(each) for each in value]
            return parts if isinstance(value, list) else tuple(parts)
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or not _is_countable(value):
            return value
        if not self._known:
            # The first one is the image.
            self._known[value] = None
        elif value not in self._known:
            revealed = self._counted(HIDDEN, value)
            self._known[value] = None if revealed is value else revealed
        instead = self._known[value]
        return value if instead is None else instead

    def _counted(self, name: str, out: Tensor) -> Tensor:
        self.count += 1
        kind = name, tuple(out.shape[1:])
        self.place = Place(*kind, self.alike[kind])
        self.alike[kind] += 1
        found = self.see_counted(name, out, self.count - 1)
        if found is not out:
            self._known[found] = None
        return found

    def all_alike(self, place: Place) -> int:
        """How many calls so far have the place's name and sizes."""
        return self.alike[place.name, place.sizes]

    def see(self, name: str, out: Any) -> None:
        """Called with what every other call puts out."""

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        """Called with what a counted call puts out; gives back what the model goes on with."""
        return out


def _is_countable(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_floating_point() and not is_wrapped(tensor)


def tensors(out: Any) -> Iterator[Tensor]:
    """The tensors that a call puts out."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for each in out:
            yield from tensors(each)
