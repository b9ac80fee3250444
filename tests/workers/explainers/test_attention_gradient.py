"""Gradient-weighted attention agrees with Chefer et al.'s update, by hand in float64, and knows its class."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatmill_workers.explainer import Explained, explain
from tests.workers.small import photos
from tests.workers.vits import FAMILIES, TARGETS, explained, of_timm


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_papers_update_by_hand(family: str) -> None:
    build, attended = FAMILIES[family]
    model = build()
    logits, maps = attended(model.module, photos(2))
    gradients = torch.autograd.grad(logits[[0, 1], TARGETS].sum(), maps)

    wanted = []
    for image in range(2):
        relevance = np.eye(17)
        for layer, gradient in zip(maps, gradients, strict=True):
            weighted = np.maximum(layer[image].detach().numpy() * gradient[image].numpy(), 0).mean(0)
            relevance = relevance + weighted @ relevance
        wanted.append(relevance[0, 1:].reshape(1, 4, 4))

    found = explained("attention_gradient", model)
    np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-4, atol=1e-5 * found.max())


def test_classes_have_maps_of_their_own_unlike_in_the_other_two() -> None:
    model, twice = of_timm(), photos(1).expand(2, -1, -1, -1)

    def maps(method: str) -> list[NDArray[np.float32]]:
        entries = explain(method, model, twice, TARGETS, {})
        return [entry.attribution for entry in entries if isinstance(entry, Explained)]

    one, other = maps("attention_gradient")
    assert not np.allclose(one, other, atol=0.1 * one.max())
    for method in ("attention", "attention_rollout"):
        one, other = maps(method)
        np.testing.assert_allclose(one, other, rtol=1e-5)
