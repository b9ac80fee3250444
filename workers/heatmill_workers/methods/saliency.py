"""Saliency.

Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks (2013), section 3. The derivative of the target's
logit with respect to every input value, signed; the picture shows its magnitude.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.passes import forward_pass
from heatmill_workers.methods.contract import MethodOutput, method


class Params(BaseModel):
    """No params."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@method(
    Params,
    picture="magnitude",
    passes=MethodCost(base=2.5, per_unit={}),
    needs=("gradients",),
    gradient_at="image",
)
def saliency(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """How strongly each pixel would move the class score if it changed a little."""

    def gradients(rows: range) -> Tensor:
        batch = slice(rows.start, rows.stop)
        return forward_pass(model, images[batch], "image").gradients(targets[batch], "image")

    batches = in_batches(gradients, len(images), model.batch_sizes, saliency.name)
    return MethodOutput(torch.cat([values for _, values in batches]))
