"""Convolutions of images that are compared with several baselines: computed against the first, known for the others.

The image's side of a pair has the same values against each baseline; only the multipliers between its convolutions
differ. So a convolution's value is kept, and its node in the graph, whose gradient needs the weights only, made anew.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input


class Convolutions:
    """What the convolutions of one model gave on the same images, in the order of their calls."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor, int]] = []
        self._calls = 0

    def begin(self) -> None:
        """The images go through the model, once more."""
        self._calls = 0

    def conv2d(self, image: Tensor, weight: Tensor, bias: Tensor | None, options: dict[str, Any]) -> Tensor:
        """`torch.nn.functional.conv2d` of the image's side, (N, C, h, w), with a graph down to it."""
        call, self._calls = self._calls, self._calls + 1
        value = self._known(call, weight)
        if value is None:
            with torch.no_grad():
                value = functional.conv2d(image, weight, bias, **options)
            self._kept[call:] = [(value, weight, value._version)]  # noqa: SLF001 - there is no other name for it
        result: Tensor = _Convolved.apply(image, (value, weight, options))
        return result

    def _known(self, call: int, weight: Tensor) -> Tensor | None:
        """The value of an earlier pass, unless the model does something else now, or has changed it in place."""
        if call >= len(self._kept):
            return None
        value, of_weight, version = self._kept[call]
        return value if of_weight is weight and value._version == version else None  # noqa: SLF001


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, given: tuple[Tensor, Tensor, dict[str, Any]]) -> Tensor:
        value, ctx.weight, ctx.options = given
        ctx.shape = image.shape
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return conv2d_input(ctx.shape, ctx.weight, gradient, **ctx.options), None  # type: ignore[no-untyped-call]
