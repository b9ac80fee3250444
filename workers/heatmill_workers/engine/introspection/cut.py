"""Where a forward pass is cut: the calls that are counted, and the one that Grad-CAM reads."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from heatmill_workers.engine.introspection.locality import CHANNELS_FIRST, Reading
from heatmill_workers.engine.introspection.tail import is_wrapped


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
class Cut:
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
    """Sees every call of a forward pass, and counts those that put out four dimensions, whatever their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.alike: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self.place = Place("", (), 0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if not isinstance(out, Tensor) or out.ndim != 4 or not out.is_floating_point() or is_wrapped(out):
            self.see(name, out)
            return out
        self.count += 1
        kind = name, tuple(out.shape[1:])
        self.place = Place(*kind, self.alike[kind])
        self.alike[kind] += 1
        return self.see_counted(name, out, self.count - 1)

    def all_alike(self, place: Place) -> int:
        """How many calls so far have the place's name and sizes."""
        return self.alike[place.name, place.sizes]

    def see(self, name: str, out: Any) -> None:
        """Called with what every other call puts out."""

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        """Called with what a counted call puts out; gives back what the model goes on with."""
        return out


def tensors(out: Any) -> Iterator[Tensor]:
    """The tensors that a call puts out."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for each in out:
            yield from tensors(each)
