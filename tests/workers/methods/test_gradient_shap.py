"""Gradient SHAP converges to integrated gradients over its background, and depends on its seed alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.gradient_shap import Params, _drawn, _draws
from tests.workers.small import loaded, photos, small_resnet, small_vit

TARGETS = torch.tensor([3, 7, 0])


def explained(method: str, model: LoadedModel, images: Tensor, **params: object) -> list[Explanation]:
    entries = explain(method, model, images, TARGETS[: len(images)], params)
    return [entry for entry in entries if isinstance(entry, Explanation)]


def test_with_many_samples_it_is_the_mean_of_integrated_gradients_over_the_background() -> None:
    names = ("mean", "white")
    each = [explained("integrated_gradients", small_vit(), photos(1), steps=30, baseline=name)[0] for name in names]
    wanted = np.mean([entry.attribution for entry in each], axis=0)

    (few,) = explained("gradient_shap", small_vit(), photos(1), samples=10, background=names)
    (many,) = explained("gradient_shap", small_vit(), photos(1), samples=400, background=names)

    assert np.abs(many.attribution - wanted).mean() < 0.5 * np.abs(few.attribution - wanted).mean()
    assert np.corrcoef(many.attribution.ravel(), wanted.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("samples", [3, 10, 50])
def test_each_baseline_counts_alike_and_has_one_point_in_each_part_of_its_path(samples: int) -> None:
    baselines = torch.zeros(4, 1, 3, 8, 8)

    path = _drawn(samples, baselines, torch.Generator().manual_seed(0))

    assert float(path.weights.sum()) == pytest.approx(1)
    for baseline in set(path.choice.tolist()):
        points = path.points[path.choice == baseline]
        parts = (points * len(points)).floor()
        assert parts.tolist() == list(range(len(points)))
        assert float(path.weights[path.choice == baseline].sum()) == pytest.approx(1 / min(samples, 4))


def test_draws_of_different_seeds_have_the_mean_of_the_path() -> None:
    draws = [_drawn(5, torch.zeros(2, 1, 3, 8, 8), torch.Generator().manual_seed(seed)) for seed in range(400)]

    assert float(torch.stack([(draw.points * draw.weights).sum() for draw in draws]).mean()) == pytest.approx(
        0.5, abs=0.01
    )


def test_with_max_error_each_image_has_as_many_samples_as_it_needs() -> None:
    asked = {"samples": 8, "max_error": 0.1, "max_samples": 512}

    entries = explained("gradient_shap", small_resnet(), photos(3), **asked)

    assert all(float(entry.checks["completeness_error"]) <= 0.1 for entry in entries)
    counts = [int(entry.checks["samples"]) for entry in entries]
    assert len(set(counts)) > 1
    assert set(counts) <= {8, 16, 32, 64, 128, 256, 512}
    (alone,) = explained("gradient_shap", small_resnet(), photos(1), **asked)
    np.testing.assert_allclose(alone.attribution, entries[0].attribution, rtol=1e-3, atol=1e-4)
    assert alone.checks["samples"] == counts[0]


@pytest.mark.parametrize("samples", [1, 8, 30])
@pytest.mark.parametrize("baselines", [1, 3, 7])
def test_with_max_error_each_draw_has_as_many_samples_of_each_baseline(samples: int, baselines: int) -> None:
    params = Params(samples=samples, max_error=0.05, max_samples=100)

    drawn = list(_draws(params, baselines))

    assert all(count % baselines == 0 for count in drawn)
    assert 100 - baselines < sum(drawn) <= 100
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("most", "taken"), [(2, 2), (20, 20), (21, 20)])
def test_an_error_that_is_not_met_ends_at_the_most_samples(most: int, taken: int) -> None:
    (entry,) = explained("gradient_shap", small_resnet(), photos(1), samples=8, max_error=1e-6, max_samples=most)

    assert entry.checks["samples"] == taken
    assert float(entry.checks["completeness_error"]) > 1e-6


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


def with_background(count: int) -> tuple[LoadedModel, list[str], Tensor]:
    """A quadratic model, whose mean gradient on a path is the one half-way, and a set whose second half is brighter."""

    class Quadratic(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (0.2 * images.flatten(1) @ weights) ** 2 - 1

    weights = torch.randn(3 * 8 * 8, 10, generator=torch.Generator().manual_seed(1))
    pictures = photos(count, side=8, seed=2) + 3 * (torch.arange(count) >= count // 2).view(-1, 1, 1, 1)
    uris = [f"s3://sets/{number}.png" for number in range(count)]
    return replace(loaded(Quadratic(), side=8), pictures=dict(zip(uris, pictures, strict=True))), uris, pictures


def test_of_a_larger_background_the_mean_over_seeds_is_the_value_against_the_whole_set() -> None:
    model, uris, pictures = with_background(100)
    image = photos(1, side=8)
    half_way = ((image + pictures) / 2).requires_grad_()
    (gradients,) = torch.autograd.grad(model.module(half_way)[:, TARGETS[0]].sum(), half_way)
    wanted = (gradients * (image - pictures)).mean(0).numpy()

    entries = [explained("gradient_shap", model, image, background=uris, seed=seed)[0] for seed in range(30)]

    drawn = np.stack([entry.attribution for entry in entries])
    standard_errors = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    assert np.sqrt((((drawn.mean(0) - wanted) / standard_errors) ** 2).mean()) < 1.5


def test_of_a_larger_background_every_image_may_be_drawn_and_none_twice() -> None:
    drawn = [_drawn(50, torch.zeros(100, 1, 3, 1, 1), torch.Generator().manual_seed(seed)) for seed in range(20)]

    counts = torch.stack([path.choice for path in drawn]).flatten().bincount(minlength=100)
    assert all(len(set(path.choice.tolist())) == 50 for path in drawn)
    assert counts.min() >= 1


def test_of_a_larger_background_an_image_has_the_same_values_alone_and_in_a_batch() -> None:
    model, uris, _ = with_background(9)
    asked = {"background": [*uris, "blur"], "samples": 4}

    together = explained("gradient_shap", model, photos(3, side=8), **asked)

    (alone,) = explained("gradient_shap", model, photos(3, side=8)[:1], **asked)
    np.testing.assert_allclose(alone.attribution, together[0].attribution, rtol=1e-4, atol=1e-5)
    for name, value in together[0].checks.items():
        assert alone.checks[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3)), name


@pytest.mark.parametrize("options", [{}, {"max_error": 0.01, "max_samples": 40}])
def test_what_was_not_drawn_counts_in_the_completeness_error_and_not_in_that_of_the_integration(
    options: dict[str, object],
) -> None:
    model, uris, pictures = with_background(100)
    (entry,) = explained("gradient_shap", model, photos(1, side=8), background=uris, samples=40, **options)

    logits = model.module(torch.cat([photos(1, side=8), pictures]))[:, TARGETS[0]]
    assert entry.checks["logit_difference"] == pytest.approx(float(logits[0] - logits[1:].mean()), rel=1e-3)
    assert entry.checks["samples"] == 40
    assert entry.verdict == ("ok" if float(entry.checks["completeness_error"]) <= 0.05 else "imprecise")
    drawn = _drawn(40, pictures.unsqueeze(1), torch.Generator().manual_seed(0)).choice
    difference = float(logits[0] - logits[1:][drawn].mean())
    error = abs(float(entry.attribution.sum(dtype=np.float64)) - difference) / abs(difference)
    assert entry.checks["integration_error"] == pytest.approx(error, rel=1e-2, abs=1e-4)


def test_of_a_background_that_was_drawn_as_a_whole_there_is_one_error() -> None:
    (entry,) = explained("gradient_shap", small_resnet(), photos(1), samples=4)

    assert "integration_error" not in entry.checks
