"""Whether a model's gradients are the slopes of what it puts out.

A part that is detached, a hook on a tensor, a backward of its own (gradient reversal, guided ReLU) and a
straight-through estimator all give gradients that torch hands over without a word, and that are not the model's. Along
a direction v the outputs change by gradient x v for a small step, whatever the model computes.

In float32 no step is small enough for a deep network to be straight, and large enough to be seen above rounding. In
float64 a step of 1e-8 is both: on 130 architectures the two sides differ by 0.7 % at most, ReLU and max pooling
included, since a step so small crosses next to no bend.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatmill_workers.engine.autograd import differentiable, differentiating, gradients
from heatmill_workers.engine.batching import is_out_of_memory
from heatmill_workers.engine.double import InDouble, in_double
from heatmill_workers.models.proof.inputs import FIRST_PHOTO, NOISE
from heatmill_workers.models.proof.runs import FAILED

DIRECTIONS = 2
# Shares of the images' standard deviation. A bend that lies in one step hardly lies in the other as well.
STEPS = (1e-8, 1e-9)
# The largest difference of gradients and slopes along the directions, as a share of the longer side.
LARGEST_DIFFERENCE = 0.05
# What rounding in float64 adds, as a share of the outputs.
ROUNDING = 1e-13
# In float32 none of these steps, on none of the images, comes nearer than that, where it is seen above rounding at all.
COARSE_STEPS, LARGEST_COARSE_DIFFERENCE, COARSE_ROUNDING = (1e-2, 1e-3, 1e-4), 0.5, 1e-6
SEEN = 10
# By how much the ends of a step may lie off the line, as a share of the step.
ROUGH = 0.1
# Of the longer side: outputs that change by less do not change.
STANDS_STILL = 1e-3
# In a photo neighbours are equal, and values lie on the limits of what a model may clamp: bends that no step avoids.
JITTER = 0.01
ROUNDS = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside")
MISLEADS = ("detach", "detach_")


def slope_fault(module: nn.Module, images: Tensor, *, is_precise: bool) -> str:
    """Why a model's gradients are not those of what it computes; empty where they are, or where it cannot be told.

    One pass of two images with its gradients, and one of four, both in float64; twice that and one more where they
    differ. A model that does not compute in float64 is looked at in float32, where only a gross difference is told.

    Args:
        module: As methods will call it; no other thread uses it.
        images: (5, C, H, W), as `proof_images` makes them.
        is_precise: It computes in float32.
    """
    points = images[[NOISE, FIRST_PHOTO]]
    jitter = torch.randn(points.shape[1:], generator=torch.Generator().manual_seed(0)).to(points)
    points = points + JITTER * points.std() * jitter
    try:
        return _fine_fault(module, points.double())
    except FAILED as error:
        if is_out_of_memory(error):
            raise
    return _coarse_fault(module, points) if is_precise else ""


@dataclass(frozen=True, eq=False)
class Difference:
    """Of one image, along some directions.

    Args:
        predicted: (directions,) float64, by the gradient.
        found: (directions,) float64, by which the outputs changed.
        size: Of the outputs.
    """

    predicted: Tensor
    found: Tensor
    size: float

    @property
    def share(self) -> float:
        """Of the longer side."""
        return float((self.found - self.predicted).norm()) / max(self._longer, 1e-300)

    def is_wrong(self, allowed: float, rounding: float) -> bool:
        """Whether the two differ by more than a share of them, and by more than rounding."""
        difference = float((self.found - self.predicted).norm())
        # What is not finite says nothing.
        return difference > allowed * self._longer + rounding * self.size

    def is_seen(self, rounding: float) -> bool:
        """Whether the outputs change, or should, by much more than rounding."""
        return self._longer > SEEN * rounding * self.size

    @property
    def stands_still(self) -> bool:
        """Whether the outputs did not change, although the gradient says so."""
        return float(self.found.norm()) <= STANDS_STILL * self._longer

    @property
    def _longer(self) -> float:
        return float(torch.maximum(self.found.norm(), self.predicted.norm()))


class _RoundsInside(Exception):
    """It makes float32 of something where nothing of that is seen."""


def _fine_fault(module: nn.Module, points: Tensor) -> str:
    with in_double(module), InDouble() as mode:
        nearest = _at_step(module, points, STEPS[0])
        if not _wrong(nearest):
            return ""
        others = _at_step(module, points, STEPS[1])
        nearest = [min(pair, key=lambda each: each.share) for pair in zip(nearest, others, strict=True)]
        wrong = _wrong(nearest)
        if wrong and _is_rough(module, points):
            raise _RoundsInside
    return _in_words(wrong, mode.called) if wrong else ""


def _coarse_fault(module: nn.Module, points: Tensor) -> str:
    found = [each for step in COARSE_STEPS for each in _at_step(module, points, step)]
    seen = [each for each in found if each.is_seen(COARSE_ROUNDING)]
    is_wrong = all(each.is_wrong(LARGEST_COARSE_DIFFERENCE, COARSE_ROUNDING) for each in seen)
    return _in_words(seen, set()) if seen and is_wrong else ""


def _wrong(found: list[Difference]) -> list[Difference]:
    return [each for each in found if each.is_wrong(LARGEST_DIFFERENCE, ROUNDING)]


def _at_step(module: nn.Module, points: Tensor, step: float) -> list[Difference]:
    count, seeds = len(points), _seeds(step)
    moved = torch.cat([_moved(points, step, seeds) for _ in range(DIRECTIONS)])
    with differentiating():
        leaf = points.clone(memory_format=torch.preserve_format).requires_grad_()
        outputs = differentiable(module(leaf))
        weights = _weights(outputs, seeds)
        (slopes,) = gradients(_weighted(outputs, weights).sum(), [leaf])
    with torch.no_grad():
        start, size = _weighted(outputs, weights), _weighted(outputs.abs(), weights.abs())
        found = _weighted(module(moved), weights).view(DIRECTIONS, count) - start
    taken = moved.view(DIRECTIONS, *points.shape) - points
    predicted = (taken.double() * slopes.double()).flatten(2).sum(2)
    return [Difference(predicted[:, row], found[:, row].double(), float(size[row])) for row in range(count)]


def _is_rough(module: nn.Module, points: Tensor) -> bool:
    """Whether the outputs at both ends of a step lie not on one line with those in its middle, as rounded ones do."""
    seeds = _seeds(0)
    forward = _moved(points, STEPS[0], seeds)
    with torch.no_grad():
        outputs = [module(each.clone()) for each in (2 * points - forward, points, forward)]
        weights = _weights(outputs[0], seeds)
        before, here, after = (_weighted(each, weights) for each in outputs)
    size = float(_weighted(outputs[1].abs(), weights.abs()).sum())
    return float((before + after - 2 * here).norm()) > ROUGH * float((after - before).norm()) + ROUNDING * size


def _seeds(step: float) -> torch.Generator:
    return torch.Generator().manual_seed(round(1 / step) if step else 1)


def _moved(points: Tensor, step: float, seeds: torch.Generator) -> Tensor:
    """The points a step away, each in a direction of its own."""
    direction = torch.randn(points.shape, generator=seeds, dtype=torch.float64).to(points)
    return torch.add(points, direction, alpha=float(step * points.std())).contiguous(memory_format=_layout(points))


def _weights(outputs: Tensor, seeds: torch.Generator) -> Tensor:
    """One of each logit; not all alike, since the outputs of a softmax sum to a constant."""
    return torch.randn(outputs.shape[1], generator=seeds, dtype=torch.float64).to(outputs)


def _in_words(wrong: list[Difference], called: set[str]) -> str:
    share = max(each.share for each in wrong)
    rounding = [name for name in ROUNDS if {name, f"{name}_"} & called]
    if all(each.stands_still for each in wrong) or rounding:
        how = f" ({', '.join(rounding)})" if rounding else ""
        return (
            f"it rounds values on its way{how} and passes a gradient through that (a straight-through estimator): such "
            f"a gradient differs from the slope of what the model puts out, by {share:.0%}"
        )
    names = [name for name in MISLEADS if name in called]
    seen = f"; it calls {', '.join(names)}" if names else ""
    return (
        f"its gradients differ from the slopes of what it puts out, by {share:.0%}: a part of it is detached from the "
        f"image, as under torch.no_grad(), or has a backward of its own{seen}"
    )


def _weighted(outputs: Tensor, weights: Tensor) -> Tensor:
    return (_finite(outputs) * weights).sum(1)


def _finite(outputs: Tensor) -> Tensor:
    """Minus infinity rules a class out."""
    return outputs.masked_fill(outputs.isinf(), 0)


def _layout(images: Tensor) -> torch.memory_format:
    is_channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format
