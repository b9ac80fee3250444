"""Gradients of chosen logits, by `autograd.grad` only: `.backward()` would write to the shared model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from heatmill.errors import UnsupportedOperation

NO_GRADIENT = "the logits have no gradient: the model detaches them from the image, as under torch.no_grad()"
# What a model does, and parts of the messages by which torch reports it.
FAULTS: Mapping[str, tuple[str, ...]] = {
    "the model changes in place what its gradient needs": (
        "modified by an inplace operation",
        "is being modified inplace",
        "used in an in-place operation",
        "output of a function that returns multiple views",
    ),
    "the model uses re-entrant checkpointing, which gradients at the image cannot pass": ("heckpoint",),
    "the model computes something that torch cannot differentiate": ("derivative for",),
    "the model has backward hooks, which may change gradients": ("backward hooks", "BackwardHook"),
    "the model has quantised layers, which torch cannot differentiate": ("not implemented for 'Quantized",),
    "the model detaches its logits from the image": (
        "does not require grad",
        "appears to not have been used in the graph",
    ),
}


def select(logits: Tensor, targets: Tensor) -> Tensor:
    """Each row's own target logit.

    Args:
        logits: (N, K).
        targets: (N,) int64.
    """
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


def differentiable(logits: Tensor) -> Tensor:
    """The same logits, known to have a graph.

    Raises:
        UnsupportedOperation: They have none.
    """
    if not logits.requires_grad:
        raise UnsupportedOperation(NO_GRADIENT)
    return logits


def gradients(of: Tensor, at: Sequence[Tensor], *, keep: bool = False) -> tuple[Tensor, ...]:
    """Gradients of a sum, by `torch.autograd.grad`.

    Args:
        of: A scalar.
        at: Where they are taken.
        keep: The graph serves again.

    Raises:
        UnsupportedOperation: Torch cannot take them from this model.
    """
    with explained_faults():
        return torch.autograd.grad(of, list(at), retain_graph=keep)


@contextmanager
def explained_faults() -> Iterator[None]:
    """Tell the faults of a model, which torch reports as any RuntimeError, from those of a machine.

    Raises:
        UnsupportedOperation: The model cannot be differentiated; the message says by which habit.
    """
    try:
        yield
    except RuntimeError as error:
        for reason, texts in FAULTS.items():
            if any(text in str(error) for text in texts):
                raise UnsupportedOperation(f"{reason}: {str(error).partition(chr(10))[0]}") from error
        raise


def target_logits(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Each image's target logit, (N,), without a graph."""
    with torch.no_grad():
        return select(module(images), targets)


def input_gradients(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each image's target logit with respect to that image, (N, 3, H, W).

    Rows do not mix: in eval mode a logit depends on its own image only, so the gradient of the sum is the gradients.

    Raises:
        UnsupportedOperation: The logits have no gradient.
    """
    return logits_and_gradients(module, images, targets)[1]


def logits_and_gradients(module: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's target logit, (N,), without a graph, and `input_gradients`.

    Raises:
        UnsupportedOperation: The logits have no gradient.
    """
    with differentiating():
        leaf = images.detach().requires_grad_()
        logits = select(differentiable(module(leaf)), targets)
        (found,) = gradients(logits.sum(), [leaf])
    return logits.detach(), found


@contextmanager
def differentiating() -> Iterator[None]:
    """Where a model runs of which gradients are wanted, also under `torch.no_grad()`.

    Raises:
        UnsupportedOperation: The model cannot be differentiated.
    """
    with torch.enable_grad(), _SingleBatchNorm(), explained_faults():
        yield


class _SingleBatchNorm(TorchFunctionMode):
    """Batch norm of a single row, by its running statistics, as arithmetic.

    On the CPU torch's own backward (2.15) reads a gradient of one row in the wrong order where its strides are those of
    channels_last and the input's are not: transformers' LeViT had other gradients alone than in a batch of two.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(  # noqa: PLR0913 - torch's arguments
    rows: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, with a backward that is right for one row."""
    if training or running_mean is None or running_var is None or len(rows) != 1:
        return functional.batch_norm(rows, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - running_mean * scale
    shape = (-1, *[1] * (rows.ndim - 2))
    return rows * scale.view(shape) + shift.view(shape)
