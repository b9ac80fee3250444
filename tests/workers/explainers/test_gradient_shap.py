"""Gradient SHAP converges to integrated gradients over its background, and depends on its seed alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from heatmill_workers.explainer import Explained, explain
from heatmill_workers.models.loaded import LoadedModel
from tests.workers.small import photos, small_resnet, small_vit

TARGETS = torch.tensor([3, 7, 0])


def explained(method: str, model: LoadedModel, images: Tensor, **params: object) -> list[Explained]:
    entries = explain(method, model, images, TARGETS[: len(images)], params)
    return [entry for entry in entries if isinstance(entry, Explained)]


def test_with_many_samples_it_is_the_mean_of_integrated_gradients_over_the_background() -> None:
    names = ("mean", "white")
    each = [explained("integrated_gradients", small_vit(), photos(1), steps=30, baseline=name)[0] for name in names]
    wanted = np.mean([entry.attribution for entry in each], axis=0)

    (few,) = explained("gradient_shap", small_vit(), photos(1), samples=10, background=names)
    (many,) = explained("gradient_shap", small_vit(), photos(1), samples=400, background=names)

    assert np.abs(many.attribution - wanted).mean() < 0.5 * np.abs(few.attribution - wanted).mean()
    assert np.corrcoef(many.attribution.ravel(), wanted.ravel())[0, 1] > 0.99


def test_the_same_seed_gives_the_same_values_and_another_seed_others() -> None:
    first, again, other = (
        explained("gradient_shap", small_resnet(), photos(1), samples=8, seed=seed)[0].attribution for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_error_of_the_sampling_is_told() -> None:
    (entry,) = explained("gradient_shap", small_resnet(), photos(1), samples=2)

    difference = float(entry.checks["logit_difference"])
    error = abs(float(entry.attribution.sum(dtype=np.float64)) - difference) / max(abs(difference), 0.01)
    assert float(entry.checks["completeness_error"]) == pytest.approx(error, rel=1e-3, abs=1e-4)
    assert entry.checks["samples"] == 2
