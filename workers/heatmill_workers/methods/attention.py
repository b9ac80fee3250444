"""Attention of the last layer.

What the tokens that the logits read (a class token, or all patches where the model pools them) attend to in the last
layer, the mean over heads: softmax(Q K^T / sqrt(d)) of Vaswani et al.: Attention Is All You Need (2017), equation 1.
It knows no class: every target of an image has the same map.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.introspection.tokens import attention_maps, on_the_grid
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import MethodOutput, method


class Params(BaseModel):
    """No params."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@method(Params, picture="positive", passes=MethodCost(base=1, per_unit={}), needs=("attention",))
def attention(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """Which patches a transformer's last layer looks at, whatever the class."""
    tokens = model.attention_layout()

    def last_layer(rows: range) -> Tensor:
        batch = slice(rows.start, rows.stop)
        with torch.no_grad():
            _, maps = attention_maps(model.module, images[batch], tokens)
            return on_the_grid(maps[-1].float().mean(1), tokens)

    batches = in_batches(last_layer, len(images), model.batch_sizes, attention.name)
    return MethodOutput(torch.cat([values for _, values in batches]))
