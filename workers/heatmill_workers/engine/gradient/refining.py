"""Gradients along a path, taken where the logit bends, and none of them twice.

Between two points of a path the attribution is a trapezoid. The forward pass of a gradient also gives the logit, so
that each gap between neighbours has an error that is known: its trapezoid less the change of the logit over it. New
points go where these errors are largest and where the gradient changes most, by half each: by the first alone the sum
is right soon, and the map is rougher than it need be (a difference of 0.08 instead of 0.05 from the map of 600 steps,
at 64, EfficientNet-Lite0). Bhat, Raychowdhury: Non-uniform Interpolation in Integrated Gradients for Low-Latency
Explainable-AI (2023) places all points beforehand, by the change of the logit. Points that are there already stay.

A gap can be cut further while the gradients at its ends are kept. Where memory for them ends, the gaps with the
smallest errors are settled: they stay as they are, and count in the sum.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from heatmill_workers.engine.autograd import logits_and_gradients
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.loaded_model import LoadedModel

# For the gradients of all images at hand: 850 at 224 x 224 pixels.
KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True, eq=False)
class Point:
    """What is known at one point of an image's path.

    Args:
        position: From 0 at the baseline to 1 at the image.
        logit: The target's.
        share: Gradient x (image - baseline), (3, H, W); None at the path's ends, where none is taken.
        slope: Its sum.
    """

    position: float
    logit: float
    share: Tensor | None = None
    slope: float = 0.0


@dataclass(frozen=True, eq=False)
class Interval:
    """Two neighbours."""

    left: Point
    right: Point

    @property
    def known(self) -> list[Point]:
        """Those of the two that have a gradient."""
        return [point for point in (self.left, self.right) if point.share is not None]

    @property
    def weight(self) -> float:
        """Of each gradient that is known."""
        return (self.right.position - self.left.position) / len(self.known)

    @cached_property
    def error(self) -> float:
        """The trapezoid less the change of the logit."""
        return self.weight * sum(point.slope for point in self.known) - (self.right.logit - self.left.logit)

    @cached_property
    def roughness(self) -> float:
        """How far apart the two gradients are; at an end of the path, how large the one is that is known."""
        first, *second = (_share(point) for point in self.known)
        return self.weight * float((first - second[0] if second else first).norm())


@dataclass(eq=False)
class PathQuadrature:
    """One image's path so far.

    Args:
        total: The attribution, (3, H, W).
        gaps: Those that may be cut.
        settled: Sum of the squared errors of the others.
        steps: Gradients taken.
    """

    total: Tensor
    steps: int
    gaps: list[Interval] = field(default_factory=list)
    settled: float = 0.0

    @property
    def spread(self) -> float:
        """Expected error if the interval errors were independent (root of the sum of squares)."""
        return math.sqrt(self.settled + sum(gap.error**2 for gap in self.gaps))


def sample(
    model: LoadedModel, ends: tuple[Tensor, Tensor], targets: Tensor, wanted: Sequence[tuple[int, float]]
) -> list[Point]:
    """Gradients at points of several images' paths, in full batches.

    Args:
        model: Any.
        ends: Baselines and images, (N, 3, H, W) each, on the model's device.
        targets: (N,) int64.
        wanted: Which image, and where on its path.
    """
    starts, images = ends
    owner = torch.tensor([image for image, _ in wanted], device=images.device)
    position = torch.tensor([position for _, position in wanted], device=images.device).view(-1, 1, 1, 1)

    def points(rows: range) -> list[Point]:
        batch = slice(rows.start, rows.stop)
        start = starts[owner[batch]]
        change = images[owner[batch]] - start
        logits, gradients = logits_and_gradients(model.module, start + position[batch] * change, targets[owner[batch]])
        shares = gradients * change
        slopes = shares.sum((1, 2, 3), dtype=torch.float64).tolist()
        positions = [where for _, where in wanted[batch]]
        # Each a tensor of its own, so that one can be let go without the others.
        return list(map(Point, positions, logits.tolist(), (share.clone() for share in shares), slopes))

    batches = in_batches(points, len(wanted), model.batch_sizes, "path")
    return [point for _, found in batches for point in found]


def weighted(points: Sequence[Point], weights: Sequence[float]) -> Tensor:
    """The attribution by a rule of one's own, (3, H, W)."""
    total = torch.zeros_like(_share(points[0]))
    for point, weight in zip(points, weights, strict=True):
        total.add_(_share(point), alpha=weight)
    return total


def trail(points: Sequence[Point], start: float, end: float) -> PathQuadrature:
    """The path of one image through points in order, with the logits at its ends."""
    whole = [Point(0.0, start), *points, Point(1.0, end)]
    made = PathQuadrature(torch.zeros_like(_share(points[0])), len(points))
    for left, right in pairwise(whole):
        _add(made, Interval(left, right))
    return made


def allocate_points(of: PathQuadrature, count: int) -> list[tuple[Interval, list[float]]]:
    """Where so many new points go: gaps, and even positions in each.

    A gap in n pieces is taken to have an n-th of its error: on networks of straight pieces the gradient jumps.
    """
    urgency = _urgency(of.gaps)
    pieces = [1] * len(of.gaps)
    waiting = [(-each / 2, index) for index, each in enumerate(urgency)]
    heapq.heapify(waiting)
    for _ in range(count):
        _, index = heapq.heappop(waiting)
        pieces[index] += 1
        gain = urgency[index] / (pieces[index] * (pieces[index] + 1))
        heapq.heappush(waiting, (-gain, index))
    return [(gap, _between(gap, into)) for gap, into in zip(of.gaps, pieces, strict=True) if into > 1]


def cut(of: PathQuadrature, gap: Interval, points: Sequence[Point]) -> None:
    """Put new points, in order, into one of the trail's gaps."""
    of.gaps.remove(gap)
    _weigh(of, gap, -1)
    for left, right in pairwise([gap.left, *points, gap.right]):
        _add(of, Interval(left, right))
    of.steps += len(points)


def freeze_intervals(of: PathQuadrature, images: int) -> None:
    """Let go of gradients beyond an image's part of the memory, when so many images are at hand."""
    # Two of them hold a gap.
    most = max(1, KEPT_BYTES // (2 * images * of.total.nbytes))
    if len(of.gaps) > most:
        of.gaps = [gap for _, gap in sorted(zip(_urgency(of.gaps), of.gaps, strict=True), key=lambda each: -each[0])]
        of.settled += sum(gap.error**2 for gap in of.gaps[most:])
        del of.gaps[most:]


def _urgency(gaps: Sequence[Interval]) -> list[float]:
    """Each gap's part of the errors, and its part of the roughness."""
    errors, roughness = [abs(gap.error) for gap in gaps], [gap.roughness for gap in gaps]
    # Where a sum is 0, so are its parts.
    whole, all_rough = sum(errors) or 1, sum(roughness) or 1
    return [error / whole + rough / all_rough for error, rough in zip(errors, roughness, strict=True)]


def _between(gap: Interval, pieces: int) -> list[float]:
    left, right = gap.left.position, gap.right.position
    return [left + (right - left) * piece / pieces for piece in range(1, pieces)]


def _add(of: PathQuadrature, gap: Interval) -> None:
    of.gaps.append(gap)
    _weigh(of, gap, 1)


def _weigh(of: PathQuadrature, gap: Interval, sign: int) -> None:
    for point in gap.known:
        of.total.add_(_share(point), alpha=sign * gap.weight)


def _share(point: Point) -> Tensor:
    if point.share is None:
        raise ValueError("no gradient is taken at a path's ends")
    return point.share
