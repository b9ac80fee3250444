"""Small ViTs of three libraries with random weights, and each one's attention in float64 as the library computes it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loaders.transformers import Logits
from tests.workers.small import LABELS, loaded, photos, small_vit

Attended = tuple[Tensor, list[Tensor]]
TARGETS = torch.tensor([3, 7])


def of_torchvision() -> LoadedModel:
    """`nn.MultiheadAttention`, which keeps no weights."""
    return small_vit()


def of_timm() -> LoadedModel:
    """`scaled_dot_product_attention`, two heads, three blocks."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    shape: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2}
    module: Any = VisionTransformer(**shape, num_classes=len(LABELS))
    nn.init.normal_(module.head.weight, std=0.5)
    return loaded(module)


def of_transformers(attention: str = "sdpa") -> LoadedModel:
    """The default there, or "eager"."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    shape: dict[str, Any] = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "intermediate_size": 64}
    shape |= {"num_hidden_layers": 3, "num_attention_heads": 2, "num_labels": len(LABELS)}
    config = ViTConfig(**shape)
    config._attn_implementation = attention
    return loaded(Logits(ViTForImageClassification(config)))


def attended_by_torchvision(module: nn.Module, images: Tensor) -> Attended:
    """Its encoder in plain operations: what its `need_weights=True` returns is not on the way to the logits."""
    copy: Any = deepcopy(module).double().requires_grad_()
    tokens = copy._process_input(images.double())
    tokens = torch.cat([copy.class_token.expand(len(images), -1, -1), tokens], 1) + copy.encoder.pos_embedding
    maps = []
    for block in copy.encoder.layers:
        normed, inner = block.ln_1(tokens), block.self_attention
        query, key, value = (
            part.view(*part.shape[:2], inner.num_heads, -1).transpose(1, 2)
            for part in nn.functional.linear(normed, inner.in_proj_weight, inner.in_proj_bias).chunk(3, -1)
        )
        maps.append(((query / query.shape[-1] ** 0.5) @ key.mT).softmax(-1))
        tokens = tokens + inner.out_proj((maps[-1] @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
    return copy.heads(copy.encoder.ln(tokens)[:, 0]), maps


def attended_by_timm(module: nn.Module, images: Tensor) -> Attended:
    """Its own path without fused kernels, on a copy."""
    copy: Any = deepcopy(module).double().requires_grad_()
    maps: list[Tensor] = []
    for block in copy.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _module, inputs: maps.append(inputs[0]))
    return copy(images.double()), maps


def attended_by_transformers(module: nn.Module, images: Tensor) -> Attended:
    """Its eager attention, on a copy."""
    copy: Any = deepcopy(module).double().requires_grad_()
    copy.inner.config._attn_implementation = "eager"
    found = copy.inner(images.double(), output_attentions=True)
    return found.logits, list(found.attentions)


Family = tuple[Callable[[], LoadedModel], Callable[[nn.Module, Tensor], Attended]]
FAMILIES: dict[str, Family] = {
    "torchvision": (of_torchvision, attended_by_torchvision),
    "timm": (of_timm, attended_by_timm),
    "transformers": (of_transformers, attended_by_transformers),
    "transformers, eager": (lambda: of_transformers("eager"), attended_by_transformers),
}


def explained(method: str, model: LoadedModel) -> NDArray[np.float32]:
    """Attributions of two images."""
    entries = explain(method, model, photos(2), TARGETS, {})
    assert all(isinstance(entry, Explanation) for entry in entries), entries
    return np.stack([entry.attribution for entry in entries if isinstance(entry, Explanation)])
