"""Multipliers of a model's logits: what the explainers of the DeepLIFT family call."""

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation

# The rules register themselves.
from heatmill_workers.engine.deeplift import attention, elementwise, norms, pools, products  # noqa: F401
from heatmill_workers.engine.deeplift.pairs import Pair, changed_in_place
from heatmill_workers.engine.gradients import differentiable, differentiating, select


def multipliers(module: nn.Module, images: Tensor, baselines: Tensor, targets: Tensor) -> Tensor:
    """Multipliers of each image's target logit against its own baseline, (N, 3, H, W).

    Args:
        module: In eval mode, parameters frozen; it stays as it is, whatever happens.
        images: (N, 3, H, W).
        baselines: (N, 3, H, W).
        targets: (N,) int64.

    Raises:
        UnsupportedOperation: The model computes something that has no rule; the message names it. Or its logits have
            no gradient.
    """
    with differentiating():
        leaf = images.detach().requires_grad_()
        # A model may change its input in place, which autograd forbids on a leaf.
        logits = module(Pair(leaf.clone(memory_format=torch.preserve_format), baselines.clone()))
        # What does not depend on the image is no pair.
        of_images = differentiable(logits.image if isinstance(logits, Pair) else logits)
        try:
            (found,) = torch.autograd.grad(select(of_images, targets).sum(), leaf)
        except RuntimeError as error:
            if not changed_in_place(error):
                raise
            raise UnsupportedOperation(f"the model changes in place what it has computed with: {error}") from error
    return found
