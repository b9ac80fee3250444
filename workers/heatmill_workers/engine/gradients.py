"""Gradients of chosen logits, by `autograd.grad` only: `.backward()` would write to the shared model."""

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation


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
        raise UnsupportedOperation(
            "the logits have no gradient: the model detaches them from the image, as under torch.no_grad()"
        )
    return logits


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
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        # The clone lets a model change its input in place, which autograd forbids on a leaf.
        logits = differentiable(module(leaf.clone(memory_format=torch.preserve_format)))
        (gradients,) = torch.autograd.grad(select(logits, targets).sum(), leaf)
    return gradients
