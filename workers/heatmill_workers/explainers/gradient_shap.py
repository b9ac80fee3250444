"""Gradient SHAP (expected gradients).

Erion, Janizek, Sturmfels, Lundberg, Lee: Improving Performance of Deep Learning Models with Axiomatic Attribution
Priors and Expected Gradients (2021), equation 3: the mean over a background set of integrated gradients, each path
taken at one random point per sample. All images of a job share their draws, so a result depends on the seed alone.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from heatmill.catalogue import Passes
from heatmill.models import MAX_BACKGROUND, BackgroundEntry
from heatmill_workers.completeness import measure
from heatmill_workers.engine.baselines import BACKGROUND, background, stacked
from heatmill_workers.engine.paths import Path, logit_differences, path_attributions
from heatmill_workers.explainer import Attributions, explains
from heatmill_workers.models.loaded import LoadedModel


class Params(BaseModel):
    """The background set, and how often it is drawn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(50, ge=1, le=2000, description="Random points; each costs a forward and backward pass.")
    background: tuple[BackgroundEntry, ...] = Field(
        ("mean", "black", "white", "blur"), min_length=1, max_length=MAX_BACKGROUND, description=BACKGROUND
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the draws.")


@explains(Params, picture="signed", passes=Passes(base=1, per={"samples": 2.5, "background": 1}))
def gradient_shap(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> Attributions:
    """How much each pixel adds to the class score compared with a background set, by random sampling."""
    baselines = background(model, images, params.background)
    path = _draw(params, stacked(baselines))
    values = path_attributions(model, images, targets, path)
    # Against the whole background set, so that the error is that of the random points.
    differences = logit_differences(model, images, targets, baselines)
    return Attributions(values, measure(values, differences, samples=params.samples))


def _draw(params: Params, baselines: Tensor) -> Path:
    """Random points, and baselines in turn: each is drawn as often as the others, as far as that goes."""
    generator = torch.Generator().manual_seed(params.seed)
    points = torch.rand(params.samples, generator=generator).to(baselines.device)
    weights = torch.full_like(points, 1 / params.samples)
    return Path(points, weights, baselines, torch.arange(params.samples, device=points.device) % len(baselines))
