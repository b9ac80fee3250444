"""Saliency is the gradient, as captum computes it."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.small import architecture, loaded, photos, small_resnet, small_vit

TARGETS = torch.tensor([3, 7])


@pytest.mark.parametrize(
    "model",
    [small_resnet(), small_vit(), loaded(architecture("mobilenet_v3_small")), loaded(architecture("densenet121"))],
    ids=["resnet18", "vit", "mobilenet_v3_small", "densenet121"],
)
def test_it_is_captums(model: LoadedModel) -> None:
    images = photos(2)
    captums = Saliency(model.module).attribute(images.clone().requires_grad_(), TARGETS, abs=False).numpy()

    for entry, want in zip(explain("saliency", model, images, TARGETS, {}), captums, strict=True):
        assert isinstance(entry, Explanation)
        np.testing.assert_allclose(entry.attribution, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        assert (entry.checks, entry.verdict) == ({}, None)
