"""What goes into a classifier's last layer, caught during an ordinary forward pass and without hooks.

A `TorchFunctionMode` sees every call of torch's public functions that the current thread makes, whoever makes it. The
last linear layer or convolution that puts out one channel per class is the head; its input says what the model sees in
an image before it is told apart. A convolution's input, as in SqueezeNet, is averaged over positions, and so is that
of a linear layer over tokens. A model that has neither gives its logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HEADS = {"linear", "conv2d"}

Source = Literal["classifier input", "logits"]


@dataclass(frozen=True)
class Seen:
    """One forward pass: logits (N, K), and features (N, D) float32."""

    logits: Tensor
    features: Tensor
    source: Source


@dataclass(frozen=True)
class _Call:
    input: Tensor
    output: Tensor
    is_linear: bool


class _Catch(TorchFunctionMode):
    """Keeps the last call for each number of channels put out: the classes' is known only at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, _Call] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # An exported graph calls `linear.default`.
        name = getattr(func, "__name__", "").split(".")[0]
        if name in HEADS and isinstance(out, Tensor):
            given = args[0] if args else (kwargs or {}).get("input")
            if isinstance(given, Tensor):
                is_linear = name == "linear"
                self.calls[out.shape[-1 if is_linear else 1]] = _Call(given, out, is_linear)
        return out


def penultimate(module: nn.Module, images: Tensor, channels: int | None = None) -> Seen:
    """Logits and penultimate features of a batch; the model and its output are as without.

    Args:
        module: (N, 3, H, W) to logits (N, K).
        images: On the module's device.
        channels: How many numbers its last layer puts out: K, or 1 where two classes are made of one; None for K.
    """
    with torch.no_grad(), _Catch() as caught:
        logits: Tensor = module(images)
    head = caught.calls.get(channels or logits.shape[-1])
    if head is None or len(head.input) != len(images) or len(head.output) != len(images):
        return Seen(logits, logits.float(), "logits")
    return Seen(logits, _pooled(head).float(), "classifier input")


def _pooled(head: _Call) -> Tensor:
    """One vector per image."""
    if head.input.ndim == 2:
        return head.input
    if head.is_linear:
        return head.input.flatten(1, -2).mean(1)
    return head.input.mean((2, 3))
