"""Integrated gradients.

Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks (2017), equation 1, by Gauss-Legendre quadrature at
captum's points. The steps of all images are packed into full batches. Completeness (the attributions sum to the change
of the logit, proposition 1) is measured on every image, because 50 steps, the usual number, often miss it.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from heatmill.catalogue import Passes
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.completeness import completeness
from heatmill_workers.engine.gradients import input_gradients, select, target_logits
from heatmill_workers.explainer import Attributions, explains
from heatmill_workers.models.loaded import LoadedModel


class Params(BaseModel):
    """The path and how finely it is followed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(50, ge=1, le=1000, description="Points on the path; each costs a forward and backward pass.")
    baseline: Literal["mean", "black", "white"] = Field(
        "mean", description="Where the path starts: an image of the dataset's mean colour, black, or white."
    )


@explains(Params, picture="signed", passes=Passes(base=1, per={"steps": 2.5}))
def integrated_gradients(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> Attributions:
    """How much each pixel adds to the class score on the way from a blank image to this one."""
    baseline = _baseline(model, params).to(images)
    attributions = _path_integral(model, images, targets, (baseline, params.steps)) * (images - baseline)
    difference = _logit_difference(model, images, targets, baseline)
    sums = attributions.sum((1, 2, 3), dtype=torch.float64).cpu()
    measured = [
        completeness(float(total), float(change), steps=params.steps)
        for total, change in zip(sums, difference.cpu(), strict=True)
    ]
    return Attributions(attributions, measured)


def _baseline(model: LoadedModel, params: Params) -> Tensor:
    """One colour, (1, 3, 1, 1), normalised."""
    if params.baseline == "mean":
        return torch.zeros(1, 3, 1, 1)
    pixel = 0.0 if params.baseline == "black" else 1.0
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (model.preprocessing.mean, model.preprocessing.std)
    )
    return (pixel - mean) / std


def _path_integral(model: LoadedModel, images: Tensor, targets: Tensor, path: tuple[Tensor, int]) -> Tensor:
    """Mean gradient on each image's path from the baseline. Row r is step r % steps of image r // steps."""
    baseline, steps = path
    points, weights = _gauss_legendre(steps, images.device)
    total = torch.zeros_like(images)

    def gradients(rows: range) -> Tensor:
        row = torch.arange(rows.start, rows.stop, device=images.device)
        image, step = row // steps, row % steps
        inputs = baseline + points[step].view(-1, 1, 1, 1) * (images[image] - baseline)
        of_rows = input_gradients(model.module, inputs, targets[image])
        # A product instead of index_add_, whose order of summation varies on accelerators.
        owner = (image - image[0] == torch.arange(_owners(rows, steps), device=images.device).unsqueeze(1)) * weights[
            step
        ]
        return torch.einsum("ir,rchw->ichw", owner, of_rows)

    for rows, sums in in_batches(gradients, len(images) * steps, model.batch_sizes, integrated_gradients.name):
        first = rows.start // steps
        total[first : first + len(sums)] += sums
    return total


def _owners(rows: range, steps: int) -> int:
    """How many images these rows belong to."""
    return (rows.stop - 1) // steps - rows.start // steps + 1


def _gauss_legendre(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points and weights on 0..1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    both = torch.tensor(np.stack([(1 + points) / 2, weights / 2]), dtype=torch.float32, device=device)
    return both[0], both[1]


def _logit_difference(model: LoadedModel, images: Tensor, targets: Tensor, baseline: Tensor) -> Tensor:
    """The target's logit above its value on the baseline, (N,)."""

    def logits(rows: range) -> Tensor:
        batch = slice(rows.start, rows.stop)
        return target_logits(model.module, images[batch], targets[batch])

    ends = torch.cat([values for _, values in in_batches(logits, len(images), model.batch_sizes, "predict")])
    with torch.no_grad():
        start = model.module(baseline.expand(1, -1, *images.shape[2:]).contiguous())
    return ends - select(start.expand(len(images), -1), targets)
