"""How far rounding alone moves the numbers that a map is computed from.

A pass rounds otherwise in another row of a batch and in batches of another size. One photo in batches of 1 to 13, with
one thread, on 12 of torchvision's architectures: the logits lay apart by 0.4 to 26 units in the last place of the
largest one in float32, and by none in bfloat16, where sums are kept in float32.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from heatmill_workers.engine.loaded_model import LoadedModel

EPSILON = torch.finfo(torch.float32).eps
# Units in the last place of a pass in float32, and of one in half precision.
OF_PASS, OF_HALF_PASS = 32, 2
# Of what is computed from a pass with a few operations: a softmax, the sum of three channels, a mean colour.
OF_FEW = 8


@dataclass(frozen=True, eq=False)
class Change:
    """How much what a method explains changes, beside what rounding alone changes it by.

    Args:
        size: (N,), of each image: the largest difference, or sum of differences, that its map is made of.
        rounding: (N,), in the same unit; a map whose `size` is not larger shows rounding and nothing else.
    """

    size: Tensor
    rounding: Tensor

    @property
    def is_real(self) -> Tensor:
        """Which images' maps show more than rounding, (N,) bool; what is not finite is for others to report."""
        return ~(self.size <= self.rounding)

    @property
    def shares(self) -> list[float]:
        """Of each image, the rounding as a share of what changes; a model that computes in bfloat16 has much of it."""
        return (self.rounding / self.size.clamp_min(torch.finfo(self.size.dtype).tiny)).tolist()


def of_parts(values: Tensor, rounding: Tensor) -> Change:
    """Of maps (N, C, h, w) whose values are the parts of a difference."""
    return Change(values.abs().sum((1, 2, 3)), rounding)


def of_outputs(model: "LoadedModel", outputs: Tensor, chosen: Tensor) -> Tensor:
    """How far rounding moves outputs of a model, in the shape of `chosen`.

    The parts that logits are sums of are taken to be as large as the logit itself or the largest one, which is never
    that of a class that a mask rules out. The values of a regression may each have a unit of its own.

    Args:
        model: Any.
        outputs: (N, K), all that it puts out.
        chosen: (N, ...) of these, or of other outputs of as many passes.
    """
    share = EPSILON * OF_PASS
    if model.dtype != torch.float32:
        share = max(share, torch.finfo(model.dtype).eps * OF_HALF_PASS)
    if model.head.outputs == "values":
        return share * chosen.abs()
    if model.head.outputs == "probabilities":
        return _of_probabilities(chosen, share * chosen.clamp(EPSILON, 1 - EPSILON).logit().abs().clamp_min(1))
    top = outputs.amax(1).abs().view(-1, *[1] * (chosen.ndim - 1))
    # The logarithm of a probability of nearly 1 is made of larger logits.
    least = 1.0 if model.head.outputs == "log-probabilities" else 0.0
    return share * torch.maximum(chosen.abs(), top).clamp_min(least)


def of_scores(model: "LoadedModel", outputs: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """How far rounding moves the scores of some classes, (N, k).

    Args:
        model: Any.
        outputs: (N, K), all that it puts out.
        scores: (N, K), what its head makes of them.
        classes: (N, k) int64.
    """
    of_each = of_outputs(model, outputs, outputs.gather(1, classes))
    return of_each if model.head.activation == "none" else _of_probabilities(scores.gather(1, classes), of_each)


def _of_probabilities(probabilities: Tensor, of_logits: Tensor) -> Tensor:
    """By the derivative of softmax and sigmoid, and by what these round themselves."""
    return probabilities * ((1 - probabilities) * of_logits + OF_FEW * EPSILON)


def matched(stand_ins: Tensor, images: Tensor) -> Tensor:
    """What stands in for images, and the image itself where the whole of it differs from that by rounding only.

    Args:
        stand_ins: (N, 3, H, W), normalised; rows that are one (expanded) stay one where no image is matched.
        images: (N, 3, H, W).
    """
    largest = torch.maximum(images.abs().amax((1, 2, 3)), stand_ins.abs().amax((1, 2, 3))).clamp_min(1)
    same = (images - stand_ins).abs().amax((1, 2, 3)) <= OF_FEW * EPSILON * largest
    return torch.where(same.view(-1, 1, 1, 1), images, stand_ins) if same.any() else stand_ins
