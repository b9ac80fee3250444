"""Integrated gradients.

Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks (2017), equation 1, by Gauss-Legendre quadrature at
captum's points. The steps of all images are packed into full batches. Completeness (the attributions sum to the change
of the logit, proposition 1) is measured on every image, because 50 steps, the usual number, often miss it. With
`max_error` the steps of the images that miss it are doubled until they meet it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from heatmill.catalogue import Passes
from heatmill_workers.completeness import completeness
from heatmill_workers.engine.baselines import DESCRIPTION, Baseline, background
from heatmill_workers.engine.paths import Path, logit_differences, path_attributions
from heatmill_workers.explainer import Attributions, Measured, explains
from heatmill_workers.models.loaded import LoadedModel


class Params(BaseModel):
    """The path and how finely it is followed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(
        50, ge=1, le=1000, description="Points on the path, or how many it starts with where `max_error` is given."
    )
    max_error: float | None = Field(
        None, gt=0, le=1, description="Double an image's steps until its completeness error is at most this."
    )
    max_steps: int = Field(800, ge=1, le=4000, description="Where the doubling ends; also bounds `steps` then.")
    baseline: Baseline = Field("mean", description=f"Where the path starts: {DESCRIPTION}.")


# The doubled steps add up to less than twice the most, which comes last.
PASSES = Passes(base=1, per={"steps": 2.5}, until={"max_error": {"max_steps": 7.5}})


@explains(Params, picture="signed", passes=PASSES)
def integrated_gradients(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> Attributions:
    """How much each pixel adds to the class score on the way from a blank image to this one."""
    baselines = background(model, images, [params.baseline])
    differences = logit_differences(model, images, targets, baselines)
    values = torch.zeros_like(images)
    measured = [Measured()] * len(images)
    open_rows = list(range(len(images)))
    for steps in _rounds(params):
        path = _path(steps, baselines[:, open_rows])
        values[open_rows] = path_attributions(model, images[open_rows], targets[open_rows], path)
        for row in open_rows:
            total = float(values[row].sum(dtype=torch.float64))
            measured[row] = completeness(total, float(differences[row]), steps=steps)
        open_rows = [row for row in open_rows if _misses(measured[row], params)]
        if not open_rows:
            break
    return Attributions(values, measured)


def _rounds(params: Params) -> Iterator[int]:
    """How many steps are tried, one after the other; the last time as many as may be."""
    steps = params.steps
    while params.max_error is not None and steps < params.max_steps:
        yield steps
        steps *= 2
    yield steps if params.max_error is None else params.max_steps


def _misses(measured: Measured, params: Params) -> bool:
    return params.max_error is not None and float(measured.checks["completeness_error"]) > params.max_error


def _path(steps: int, baselines: Tensor) -> Path:
    """Gauss-Legendre's points and weights on 0..1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    both = torch.tensor(np.stack([(1 + points) / 2, weights / 2]), dtype=torch.float32, device=baselines.device)
    return Path(both[0], both[1], baselines, torch.zeros(steps, dtype=torch.int64, device=baselines.device))
