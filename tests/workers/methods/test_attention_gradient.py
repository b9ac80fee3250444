"""Gradient-weighted attention agrees with Chefer et al.'s update, by hand in float64, and knows its class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.small import loaded, photos
from tests.workers.vits import FAMILIES, TARGETS, attended_by_timm, explained, of_timm


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_papers_update_by_hand(family: str) -> None:
    build, attended = FAMILIES[family]
    model = build()
    logits, maps = attended(model.module, photos(2))
    gradients = torch.autograd.grad(logits[[0, 1], TARGETS].sum(), maps)

    wanted = np.stack([relevance[0, 1:].reshape(1, 4, 4) for relevance in by_hand(maps, gradients)])

    found = explained("attention_gradient", model)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * found.max())


def by_hand(maps: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """R - I of each image in float64, (tokens, tokens)."""
    found = []
    for image in range(len(maps[0])):
        relevance = np.eye(maps[0].shape[-1])
        for layer, gradient in zip(maps, gradients, strict=True):
            weighted = np.maximum(layer[image].detach().numpy() * gradient[image].numpy(), 0).mean(0)
            relevance = relevance + weighted @ relevance
        found.append(relevance - np.eye(len(relevance)))
    return found


def test_relevances_that_are_small_next_to_one_keep_their_digits() -> None:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    # The mean over all patches is read, and so the diagonal, on which the identity lies.
    shape: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2}
    module: Any = VisionTransformer(**shape, num_classes=10, class_token=False, global_pool="avg")
    nn.init.normal_(module.head.weight, std=5e-7)
    model = loaded(module)
    logits, maps = attended_by_timm(model.module, photos(2))
    gradients = torch.autograd.grad(logits[[0, 1], TARGETS].sum(), maps)
    wanted = np.stack([relevance.mean(0).reshape(1, 4, 4) for relevance in by_hand(maps, gradients)])
    assert 1e-10 < wanted.max() < 1e-8

    found = explained("attention_gradient", model)

    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * wanted.max())


def test_classes_have_maps_of_their_own_unlike_in_the_other_two() -> None:
    model, twice = of_timm(), photos(1).expand(2, -1, -1, -1)

    def maps(method: str) -> list[NDArray[np.float32]]:
        entries = explain(method, model, twice, TARGETS, {})
        return [entry.attribution for entry in entries if isinstance(entry, Explanation)]

    one, other = maps("attention_gradient")
    assert not np.allclose(one, other, atol=0.1 * one.max())
    for method in ("attention", "attention_rollout"):
        one, other = maps(method)
        np.testing.assert_allclose(one, other, rtol=1e-5)
