"""Integrated gradients.

Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks (2017), equation 1, by Gauss-Legendre quadrature at
captum's points. The steps of all images are packed into full batches. Completeness (the attributions sum to the change
of the logit, proposition 1) is measured on every image, because 50 steps, the usual number, often miss it. With
`max_error` the images that miss it get as many steps again, and again, where the logit bends: see `engine/refining.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill.catalogue.models import Baseline
from heatmill_workers.engine.autograd import select
from heatmill_workers.engine.baselines import DESCRIPTION, answers, background, baseline_checks
from heatmill_workers.engine.gradient.paths import Path, outputs_on, path_attributions
from heatmill_workers.engine.gradient.refining import (
    KEPT_BYTES,
    Interval,
    PathQuadrature,
    allocate_points,
    cut,
    freeze_intervals,
    sample,
    trail,
    weighted,
)
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import of_outputs, of_parts
from heatmill_workers.methods.contract import Checks, MethodOutput, SelfCheck, method
from heatmill_workers.methods.self_check import SMALLEST_DIFFERENCE, completeness


class Params(BaseModel):
    """The path and how finely it is followed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(
        50, ge=1, le=1000, description="Points on the path, or how many it starts with where `max_error` is given."
    )
    max_error: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Double an image's steps, where the logit bends, until its completeness error is at most this.",
    )
    max_steps: int = Field(800, ge=1, le=4000, description="Where the doubling ends; also bounds `steps` then.")
    baseline: Baseline = Field("mean", description=f"Where the path starts: {DESCRIPTION}.")


# No step is taken twice.
PASSES = MethodCost(base=1, per_unit={"steps": 2.5}, upper_bound={"max_error": {"max_steps": 2.5}})


@dataclass(frozen=True, eq=False)
class Paths:
    """Images with the baselines that their paths start from.

    Args:
        starts: (N, 3, H, W).
        images: (N, 3, H, W).
        targets: (N,) int64.
        logits: The target's logit on each baseline and on each image, (2, N).
        checks: What the model says of each baseline.
    """

    starts: Tensor
    images: Tensor
    targets: Tensor
    logits: Tensor
    checks: Sequence[Checks]

    def __getitem__(self, rows: slice) -> "Paths":
        return Paths(self.starts[rows], self.images[rows], self.targets[rows], self.logits[:, rows], self.checks[rows])

    def measure(self, row: int, values: Tensor, steps: int) -> SelfCheck:
        """The completeness error of one image's attribution."""
        start, end = self.logits[:, row].tolist()
        return completeness(float(values.sum(dtype=torch.float64)), end - start, steps=steps, **self.checks[row])


@method(Params, picture="signed", passes=PASSES, needs=("gradients",))
def integrated_gradients(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """How much each pixel adds to the class score on the way from a blank image to this one."""
    (starts,) = background(model, images, [params.baseline])
    outputs = outputs_on(model, starts)
    ends = [outputs, outputs_on(model, images)]
    logits = torch.stack([select(each, targets) for each in ends])
    rounding = torch.stack([of_outputs(model, *both) for both in zip(ends, logits, strict=True)]).amax(0)
    paths = Paths(starts, images, targets, logits, baseline_checks(model, [answers(model, outputs)]))
    if params.max_error is None:
        values = path_attributions(model, images, targets, _path(params.steps, starts[None]))
        measured = [paths.measure(row, each, params.steps) for row, each in enumerate(values)]
        return MethodOutput(values, measured, of_parts(values, rounding))
    # The gradients of the first steps of all images at hand are kept.
    size = max(1, KEPT_BYTES // (_first_steps(params) * images[0].nbytes))
    groups = [_to_error(model, paths[row : row + size], params) for row in range(0, len(images), size)]
    values = torch.cat([found for found, _ in groups])
    measured = [each for _, of_group in groups for each in of_group]
    return MethodOutput(values, measured, of_parts(values, rounding))


def _to_error(model: LoadedModel, paths: Paths, params: Params) -> tuple[Tensor, list[SelfCheck]]:
    """Attributions (N, 3, H, W) and their errors, with steps as each image needs them."""
    values, measured, trails = _begin(model, paths, params)
    while trails:
        _double(model, paths, trails, params)
        for row in list(trails):
            values[row], measured[row] = trails[row].total, paths.measure(row, trails[row].total, trails[row].steps)
            if trails[row].steps >= params.max_steps or _is_met(measured[row], params, trails[row].spread):
                del trails[row]
    return values, measured


def _begin(
    model: LoadedModel, paths: Paths, params: Params
) -> tuple[Tensor, list[SelfCheck], dict[int, PathQuadrature]]:
    """The first steps of all images, and the trails of those whose error is too large, by row."""
    steps = _first_steps(params)
    path = _path(steps, paths.starts[None])
    wanted = [(row, position) for row in range(len(paths.images)) for position in path.points.tolist()]
    found = sample(model, (paths.starts, paths.images), paths.targets, wanted)
    values, measured, trails = torch.zeros_like(paths.images), list[SelfCheck](), dict[int, PathQuadrature]()
    for row, (start, end) in enumerate(paths.logits.T.tolist()):
        points = found[row * steps : (row + 1) * steps]
        values[row] = weighted(points, path.weights.tolist())
        measured.append(paths.measure(row, values[row], steps))
        if steps < params.max_steps and not _is_met(measured[row], params):
            trails[row] = trail(points, start, end)
    return values, measured, trails


def _double(model: LoadedModel, paths: Paths, trails: dict[int, PathQuadrature], params: Params) -> None:
    """As many steps again for each trail, or as many as may be."""
    chosen: list[tuple[int, Interval, list[float]]] = []
    for row, each in trails.items():
        freeze_intervals(each, len(trails))
        count = min(each.steps, params.max_steps - each.steps)
        chosen += [(row, gap, positions) for gap, positions in allocate_points(each, count)]
    wanted = [(row, position) for row, _, positions in chosen for position in positions]
    found = iter(sample(model, (paths.starts, paths.images), paths.targets, wanted))
    for row, gap, positions in chosen:
        cut(trails[row], gap, [next(found) for _ in positions])


def _first_steps(params: Params) -> int:
    return params.steps if params.max_error is None else min(params.steps, params.max_steps)


def _is_met(measured: SelfCheck, params: Params, spread: float = 0.0) -> bool:
    """Whether the error is small, and not because the gaps' errors happen to cancel."""
    change = max(abs(float(measured.checks["logit_difference"])), SMALLEST_DIFFERENCE)
    errors = (float(measured.checks["completeness_error"]), spread / change)
    return params.max_error is not None and max(errors) <= params.max_error


def _path(steps: int, baselines: Tensor) -> Path:
    """Gauss-Legendre's points and weights on 0..1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    both = torch.tensor(np.stack([(1 + points) / 2, weights / 2]), dtype=torch.float32, device=baselines.device)
    return Path(both[0], both[1], baselines, torch.zeros(steps, dtype=torch.int64, device=baselines.device))
