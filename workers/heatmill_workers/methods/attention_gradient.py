"""Attention weighted by its gradient.

Chefer, Gur, Wolf: Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers
(2021), equations 5 and 6 for self-attention: each layer's attention times the target's gradient at it, clipped at 0,
the mean over heads, adds to the relevance that comes up from below. Their relevance R starts from the identity, which
equation 8 takes off at the end. Here R - I is kept from the start: next to 1, small relevances would be rounded away.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill_workers.engine.autograd import differentiable, differentiating, gradients, select
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.introspection.tokens import attention_maps, check_readers, on_the_grid
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import Change, of_outputs
from heatmill_workers.methods.contract import MethodOutput, method


class Params(BaseModel):
    """No params."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@method(Params, picture="positive", passes=MethodCost(base=2.5, per_unit={}), needs=("gradients", "attention"))
def attention_gradient(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """Which patches a transformer's attention takes the evidence for the class from."""
    tokens = model.attention_layout()

    def weighted(rows: range) -> tuple[Tensor, Tensor, Tensor]:
        batch = slice(rows.start, rows.stop)
        with differentiating():
            logits, maps = attention_maps(model.module, images[batch], tokens, differentiable=True)
            chosen = select(differentiable(logits), targets[batch])
            found = gradients(chosen.sum(), maps)
        with torch.no_grad():
            check_readers(found[-1], tokens)
            # A model may compute in another precision.
            layers, slopes = ([each.float() for each in kept] for kept in (maps, found))
            values = on_the_grid(_relevance(layers, tuple(slopes)), tokens)
            # What the logit would lose, or gain, with all that is attended to.
            size = sum((slope * layer).abs().sum((1, 2, 3)) for slope, layer in zip(slopes, layers, strict=True))
            return values, torch.as_tensor(size), of_outputs(model, logits, chosen)

    batches = in_batches(weighted, len(images), model.batch_sizes, attention_gradient.name)
    values, size, rounding = (torch.cat(parts) for parts in zip(*(found for _, found in batches), strict=True))
    return MethodOutput(values, change=Change(size, rounding))


def _relevance(maps: list[Tensor], gradients: tuple[Tensor, ...]) -> Tensor:
    """R - I, (N, tokens, tokens): with A of each layer, R' - I = (R - I) + A (R - I) + A."""
    total = torch.zeros_like(maps[0][:, 0])
    for layer, gradient in zip(maps, gradients, strict=True):
        weighted = (gradient * layer).clamp(min=0).mean(1)
        total = total + weighted @ total + weighted
    return total
