"""Grad-CAM.

Selvaraju et al.: Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (2017), equations 1
and 2: the maps of the last spatial layer, each weighted by the mean of the target's gradient over it, summed, and
clipped at 0. The attribution has the layer's own resolution.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill_workers.engine.autograd import select
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.passes import forward_pass
from heatmill_workers.engine.rounding import EPSILON, OF_PASS, Change, of_outputs
from heatmill_workers.methods.contract import MethodOutput, method

# As a share of the mean size of a map's gradient; float32 leaves 1e-7 to 1e-6 of a mean that is zero.
ROUNDING = 1e-5


class Params(BaseModel):
    """No params: the layer belongs to the model, and an operator names it with `cam_layer`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@method(
    Params,
    picture="positive",
    passes=MethodCost(base=1, per_unit={}),
    needs=("gradients", "spatial layer"),
    gradient_at="map",
)
def grad_cam(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """Which regions hold the evidence for the class, as the network's last spatial layer sees them."""

    def maps(rows: range) -> tuple[Tensor, Tensor, Tensor]:
        batch = slice(rows.start, rows.stop)
        return _class_activation(model, images[batch], targets[batch])

    batches = in_batches(maps, len(images), model.batch_sizes, grad_cam.name)
    values, size, rounding = (torch.cat(parts) for parts in zip(*(found for _, found in batches), strict=True))
    return MethodOutput(values, change=Change(size, rounding))


def _class_activation(model: LoadedModel, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The maps (N, 1, h, w), and per image what the logit changes by with the layer's maps, beside its rounding."""
    taken = forward_pass(model, images, "map")
    # A model may compute in another precision.
    gradients = taken.gradients(targets, "map").float()
    weights = gradients.mean((2, 3), keepdim=True)
    # Of a head that reads how much a map varies the mean is zero, and what is left of it is rounding.
    weights = torch.where(weights.abs() > ROUNDING * gradients.abs().mean((2, 3), keepdim=True), weights, 0)
    layer, logits = taken.origins["map"].detach().float(), taken.logits.detach()
    parts = weights * layer
    evidence = parts.sum(1, keepdim=True)
    is_real = evidence > EPSILON * OF_PASS * parts.abs().sum(1, keepdim=True)
    size = (gradients * layer).abs().sum((1, 2, 3))
    return torch.where(is_real, evidence, 0), size, of_outputs(model, logits, select(logits, targets))
