"""One of the last tensors of a forward pass, read without hooks.

A `TorchFunctionMode` sees every call of torch's public functions that the current thread makes, and keeps copies of the
last results of one shape. Places are counted from the end, so that a model which computes row by row still has them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heatmill.errors import UnsupportedOperation


@dataclass(frozen=True)
class Tail:
    """Where a tensor is in a forward pass.

    Args:
        shape: Its shape without the dimension of the images.
        place: How many results of that shape follow.
    """

    shape: tuple[int, ...]
    place: int

    def __call__(self, module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the module puts out for images, and that tensor.

        Raises:
            UnsupportedOperation: There is no such tensor: the model computes otherwise than when it was probed.
        """
        shape = (len(images), *self.shape)
        with LastResults(lambda found: found == shape, self.place + 1) as mode:
            outputs: Tensor = module(images)
        if len(mode.kept) <= self.place:
            raise UnsupportedOperation("the model computes differently for different images; its last layer moved")
        return outputs, mode.kept[0]


class LastResults(TorchFunctionMode):
    """Copies of the last floating results.

    Args:
        wants: Which shapes count.
        count: How many are kept.

    Attributes:
        kept: The results, in order.
        makers: The functions that made them.
    """

    def __init__(self, wants: Callable[[torch.Size], bool], count: int) -> None:
        super().__init__()
        self.wants = wants
        self.kept: deque[Tensor] = deque(maxlen=count)
        self.makers: deque[Callable[..., Any]] = deque(maxlen=count)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        shape = shape_of(out)
        if shape is not None and out.dtype.is_floating_point and self.wants(shape):
            # The model may go on to change it in place.
            self.kept.append(out.clone())
            self.makers.append(func)
        return out


def shape_of(result: object) -> torch.Size | None:
    """The shape of a plain tensor; none of anything else.

    Inside `vmap` and its kind a tensor stands for several and must not be kept; a nested one has no shape.
    """
    if not isinstance(result, Tensor) or is_wrapped(result) or result.is_nested:
        return None
    return result.shape


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor is one of `torch.func`, such as an image of a batch inside `vmap`."""
    # torch has no public name for it.
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
