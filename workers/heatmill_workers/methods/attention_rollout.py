"""Attention rollout.

Abnar, Zuidema: Quantifying Attention Flow in Transformers (2020), section 3: the attention of each layer, the mean over
heads, is averaged with the identity for the residual connection, and the layers are multiplied. It knows no class:
every target of an image has the same map.
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
def attention_rollout(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """Which patches a transformer's attention leads to through all layers, whatever the class."""
    tokens = model.attention_layout()

    def rolled_out(rows: range) -> Tensor:
        batch = slice(rows.start, rows.stop)
        with torch.no_grad():
            _, maps = attention_maps(model.module, images[batch], tokens)
            return on_the_grid(_rollout([layer.float() for layer in maps]), tokens)

    batches = in_batches(rolled_out, len(images), model.batch_sizes, attention_rollout.name)
    return MethodOutput(torch.cat([values for _, values in batches]))


def _rollout(maps: list[Tensor]) -> Tensor:
    """(N, tokens, tokens): the share of each token at the input in each token at the end."""
    identity = torch.eye(maps[0].shape[-1], device=maps[0].device)
    total = identity
    for layer in maps:
        mixed = 0.5 * layer.mean(1) + 0.5 * identity
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    return total
