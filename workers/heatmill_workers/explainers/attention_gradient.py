"""Attention weighted by its gradient.

Chefer, Gur, Wolf: Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers
(2021), equations 5 and 6 for self-attention: each layer's attention times the target's gradient at it, clipped at 0,
the mean over heads, adds to the relevance that comes up from below. Their relevance R starts from the identity, which
equation 8 takes off at the end. Here R - I is kept from the start: next to 1, small relevances would be rounded away.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from heatmill.catalogue import Passes
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.gradients import differentiable, differentiating, gradients, select
from heatmill_workers.engine.tokens import attention_maps, on_the_grid
from heatmill_workers.explainer import Attributions, explains
from heatmill_workers.models.loaded import LoadedModel


class Params(BaseModel):
    """No params."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@explains(Params, picture="positive", passes=Passes(base=2.5, per={}), needs=("gradients", "attention"))
def attention_gradient(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> Attributions:
    """Which patches a transformer's attention takes the evidence for the class from."""
    tokens = model.attention_layout()

    def weighted(rows: range) -> Tensor:
        batch = slice(rows.start, rows.stop)
        with differentiating():
            logits, maps = attention_maps(model.module, images[batch], tokens, differentiable=True)
            found = gradients(select(differentiable(logits), targets[batch]).sum(), maps)
        with torch.no_grad():
            # A model may compute in another precision.
            layers, slopes = ([each.float() for each in kept] for kept in (maps, found))
            return on_the_grid(_relevance(layers, tuple(slopes)), tokens)

    batches = in_batches(weighted, len(images), model.batch_sizes, attention_gradient.name)
    return Attributions(torch.cat([values for _, values in batches]))


def _relevance(maps: list[Tensor], gradients: tuple[Tensor, ...]) -> Tensor:
    """R - I, (N, tokens, tokens): with A of each layer, R' - I = (R - I) + A (R - I) + A."""
    total = torch.zeros_like(maps[0][:, 0])
    for layer, gradient in zip(maps, gradients, strict=True):
        weighted = (gradient * layer).clamp(min=0).mean(1)
        total = total + weighted @ total + weighted
    return total
