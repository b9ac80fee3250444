"""Integrated gradients agrees with captum at equal steps, is complete, and says when it is not."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.self_check import SMALLEST_DIFFERENCE
from tests.workers.small import loaded, photos, small_resnet, small_vit

TARGETS = torch.tensor([3, 7, 0])


def explained(model: LoadedModel, images: Tensor, **params: object) -> list[Explanation]:
    entries = explain("integrated_gradients", model, images, TARGETS[: len(images)], params)
    assert all(isinstance(entry, Explanation) for entry in entries)
    return [entry for entry in entries if isinstance(entry, Explanation)]


@pytest.mark.parametrize("model", [small_resnet(), small_vit()], ids=["resnet18", "vit"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_it_is_captums_at_equal_steps(model: LoadedModel, steps: int) -> None:
    images = photos(3)
    captum = IntegratedGradients(model.module)
    wanted, delta = captum.attribute(images, target=TARGETS, n_steps=steps, return_convergence_delta=True)

    for entry, want, error in zip(explained(model, images, steps=steps), wanted.numpy(), delta, strict=True):
        np.testing.assert_allclose(entry.attribution, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        difference = max(abs(float(entry.checks["logit_difference"])), SMALLEST_DIFFERENCE)
        assert entry.checks["completeness_error"] == pytest.approx(abs(float(error)) / difference, rel=1e-2, abs=1e-4)


def test_on_a_smooth_model_few_steps_are_complete() -> None:
    for entry in explained(small_vit(), photos(3), steps=30):
        assert float(entry.attribution.sum()) == pytest.approx(float(entry.checks["logit_difference"]), rel=1e-2)
        assert entry.verdict == "ok"


def test_too_few_steps_are_said_to_be_imprecise() -> None:
    for entry in explained(small_resnet(), photos(3), steps=1):
        assert float(entry.checks["completeness_error"]) > 0.05
        assert entry.checks["steps"] == 1
        assert entry.verdict == "imprecise"


@pytest.mark.parametrize(("baseline", "pixel"), [("black", 0.0), ("white", 1.0)])
def test_black_and_white_are_colours_of_pixels_not_of_the_normalised_image(baseline: str, pixel: float) -> None:
    mean, std = small_resnet().preprocessing.mean, small_resnet().preprocessing.std
    blank = ((pixel - torch.tensor(mean)) / torch.tensor(std)).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    wanted = IntegratedGradients(small_resnet().module).attribute(photos(1), blank, target=TARGETS[:1], n_steps=5)

    (entry,) = explained(small_resnet(), photos(1), steps=5, baseline=baseline)

    np.testing.assert_allclose(entry.attribution, wanted[0].numpy(), rtol=1e-4, atol=1e-6)


def test_with_max_error_the_steps_of_those_that_miss_it_are_doubled() -> None:
    coarse = explained(small_resnet(), photos(3), steps=2)
    bound = sorted(float(entry.checks["completeness_error"]) for entry in coarse)[1]

    fine = explained(small_resnet(), photos(3), steps=2, max_error=bound, max_steps=256)

    assert [entry.checks["steps"] for entry in fine].count(2) == 2
    for entry in fine:
        assert float(entry.checks["completeness_error"]) <= bound
        assert int(entry.checks["steps"]) in (2, 4, 8, 16, 32, 64, 128, 256)


def test_the_doubling_ends_at_max_steps_and_says_so() -> None:
    for entry in explained(small_resnet(), photos(2), steps=4, max_error=1e-9, max_steps=20):
        assert entry.checks["steps"] == 20


def test_the_most_steps_bound_the_first_ones_where_an_error_is_to_be_met() -> None:
    (entry,) = explained(small_resnet(), photos(1), steps=50, max_error=1e-9, max_steps=3)
    assert entry.checks["steps"] == 3
    (entry,) = explained(small_resnet(), photos(1), steps=5, max_steps=3)
    assert entry.checks["steps"] == 5


class Flat(nn.Module):
    """Logits that do not depend on the image, but are differentiable."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.mean((1, 2, 3)) * 0).unsqueeze(1).expand(-1, 10)


def test_where_the_logit_does_not_change_the_ratio_means_nothing() -> None:
    (entry,) = explained(loaded(Flat()), photos(1), steps=3)

    assert {"completeness_error": 0, "logit_difference": 0, "steps": 3}.items() <= entry.checks.items()
    assert entry.verdict == "blank"
    assert not entry.attribution.any()


def test_a_linear_model_is_exact_in_one_step() -> None:
    torch.manual_seed(0)
    model = loaded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10)))
    weight = model.module.get_parameter("1.weight")

    (entry,) = explained(model, photos(1), steps=1)

    wanted = (weight[TARGETS[0]] * photos(1).flatten()).view(3, 64, 64).numpy()
    np.testing.assert_allclose(entry.attribution, wanted, rtol=1e-4, atol=1e-6)
    assert entry.verdict == "ok"
