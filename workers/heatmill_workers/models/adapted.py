"""The one place that hands images to an operator's module: in the memory and the precision that it runs in."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

HOOKS = (Tensor.register_hook, Tensor.retain_grad, Tensor.register_post_accumulate_grad_hook)


@dataclass(frozen=True)
class Needs:
    """What a module was seen to need.

    Args:
        dtype: In which images are handed to it.
        contiguous: It does not run with images that lie channels-last in memory.
        own_images: It writes into its images, so that it gets a copy.
        one_by_one: What it puts out for an image depends on its batch, as quantisation does by the range of all values.
        two_rows: Torch's gradient of a single row is wrong inside of it: an image alone is handed to it twice.
        hookless: It puts hooks on tensors of its own pass, as code for Grad-CAM does, or keeps their gradients.
        reading: Its outputs are no float32 logits (N, K): they are picked out of others, reshaped or converted.
    """

    dtype: torch.dtype = torch.float32
    contiguous: bool = False
    own_images: bool = False
    one_by_one: bool = False
    two_rows: bool = False
    reading: bool = False
    hookless: bool = False


class WithoutHooks(TorchFunctionMode):
    """Leaves out what a model asks of the gradients of its own tensors: torch refuses that where there are none.

    Attributes:
        met: Whether there was such a request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in HOOKS:
            return func(*args, **(kwargs or {}))
        self.met = True
        return RemovableHandle(OrderedDict())


class Adapted(nn.Module):
    """A module with what it needs; see `adapt`.

    Args:
        inner: The operator's module, (N, C, H, W) to outputs.
        read: Takes the logits (N, K) out of its outputs for N images; None where they are its outputs.
        needs: What it needs.
    """

    def __init__(self, inner: nn.Module, read: Callable[[object, int], Tensor] | None, needs: Needs) -> None:
        super().__init__()
        self.inner, self.read, self.needs = inner, read, needs
        self.training = inner.training
        self.met_hooks = False

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 to (N, K) float32."""
        if self.needs.two_rows and len(images) == 1 and images.requires_grad:
            return self._logits(torch.cat([images, images]))[:1]
        if self.needs.one_by_one:
            return torch.cat([self._logits(image) for image in torch.split(images, 1)])
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        needs = self.needs
        if needs.contiguous:
            images = images.contiguous()
        if needs.own_images:
            images = images.clone(memory_format=torch.preserve_format)
        if needs.dtype != torch.float32:
            images = images.to(needs.dtype)
        outputs: Any = self._without_hooks(images) if needs.hookless else self.inner(images)
        logits: Tensor = outputs if self.read is None or not needs.reading else self.read(outputs, len(images)).float()
        return logits

    def _without_hooks(self, images: Tensor) -> object:
        with WithoutHooks() as mode:
            outputs = self.inner(images)
        self.met_hooks |= mode.met
        return outputs


def adapt(module: nn.Module, read: Callable[[object, int], Tensor] | None, needs: Needs) -> nn.Module:
    """The module as methods call it: itself, where it needs nothing."""
    return module if needs == Needs() else Adapted(module, read, needs)


def prefix(adapted: nn.Module, module: nn.Module) -> str:
    """What stands before the names of the parts of `module`, seen from the adapted one."""
    return next(f"{name}." if name else "" for name, part in adapted.named_modules() if part is module)
