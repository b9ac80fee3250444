"""What the model says of what an image is compared with stands in each row of a method that compares."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.baselines import background
from heatmill_workers.engine.head import Head
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import solid_colour
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models import digits
from heatmill_workers.models.loaders import bundled
from tests.workers.small import LABELS, loaded, photos, small_resnet

TARGETS = torch.tensor([3, 7, 7])
EVERY = ("mean", "black", "white", "blur")
METHODS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("integrated_gradients", {"steps": 3, "baseline": "white"}, ("white",)),
    ("integrated_gradients", {"steps": 3, "baseline": "blur"}, ("blur",)),
    ("integrated_gradients", {"steps": 3, "max_error": 0.5, "max_steps": 6, "baseline": "blur"}, ("blur",)),
    ("deep_lift", {"baseline": "black"}, ("black",)),
    ("deep_lift", {"baseline": "blur"}, ("blur",)),
    ("deep_shap", {}, EVERY),
    ("gradient_shap", {"samples": 4}, EVERY),
    (
        "gradient_shap",
        {"samples": 4, "max_error": 0.5, "max_samples": 8, "background": ["blur", "mean"]},
        ("blur", "mean"),
    ),
]


def images() -> Tensor:
    """Three, of which two are one photo."""
    return photos(2)[[0, 1, 1]]


def checks(model: LoadedModel, method: str, params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    answers = explain(method, model, images(), TARGETS, params)
    return [answer.checks for answer in answers if isinstance(answer, Explanation)]


def said(model: LoadedModel, shown: Tensor) -> list[tuple[str, float]]:
    """The label and the score of the surest class of each image."""
    with torch.no_grad():
        scores, classes = model.head.scores(model.module(shown)).max(1)
    return [(model.labels[index], score) for index, score in zip(classes.tolist(), scores.tolist(), strict=True)]


@pytest.mark.parametrize("head", [Head(), Head("sigmoid")])
@pytest.mark.parametrize(("method", "params", "names"), METHODS)
def test_a_row_says_what_the_model_takes_the_baseline_for(
    method: str, params: dict[str, Any], names: tuple[str, ...], head: Head
) -> None:
    model = replace(small_resnet(), head=head)
    each = [said(model, baseline) for baseline in background(model, images(), names)]
    surest = [max(of_image, key=lambda answer: answer[1]) for of_image in zip(*each, strict=True)]

    for found, (label, probability) in zip(checks(model, method, params), surest, strict=True):
        assert found["baseline_class"] == label
        assert found["baseline_probability"] == pytest.approx(probability, abs=1e-4)


@pytest.mark.parametrize(("masker", "level"), [("black", 0.0), ("grey", 0.5), ("white", 1.0)])
def test_partition_shaps_baseline_is_the_image_with_everything_hidden(masker: str, level: float) -> None:
    model = small_resnet()
    ((label, probability),) = said(model, solid_colour(level, model.preprocessing).expand(1, 3, 64, 64))

    for found in checks(model, "partition_shap", {"masker": masker, "max_evals": 4}):
        assert (found["baseline_class"], found["baseline_probability"]) == (label, pytest.approx(probability, abs=1e-4))


def test_each_image_has_its_own_answer_for_its_own_blur() -> None:
    probabilities = [
        found["baseline_probability"] for found in checks(small_resnet(), "partition_shap", {"max_evals": 4})
    ]

    assert probabilities[0] != probabilities[1] == probabilities[2]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("integrated_gradients", {"steps": 3}),
        ("deep_shap", {}),
        ("gradient_shap", {"samples": 4}),
        ("partition_shap", {"max_evals": 4}),
    ],
)
def test_a_regression_takes_a_baseline_for_nothing(method: str, params: dict[str, Any]) -> None:
    model = replace(small_resnet(), head=Head("none", "values"))

    for found in checks(model, method, params):
        assert not [name for name in found if name.startswith("baseline")]


class Counting(nn.Module):
    """Counts the rows that pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, rows: Tensor) -> Tensor:
        """As the model does."""
        self.rows += len(rows)
        logits: Tensor = self.inner(rows)
        return logits


@pytest.mark.parametrize(
    ("method", "params", "rows"),
    [
        # The shared baseline once, the images, the steps.
        ("integrated_gradients", {"steps": 4}, 1 + 3 + 3 * 4),
        ("integrated_gradients", {"steps": 4, "baseline": "blur"}, 3 + 3 + 3 * 4),
        ("gradient_shap", {"samples": 4}, 1 + 1 + 1 + 3 + 3 + 3 * 4),
        # Two distinct images, each hidden, shown, and in two halves.
        ("partition_shap", {"max_evals": 4}, 2 * 4),
    ],
)
def test_it_costs_no_pass_of_its_own(method: str, params: dict[str, Any], rows: int) -> None:
    counting = Counting(small_resnet().module)

    checks(replace(small_resnet(), module=counting), method, params)

    assert counting.rows == rows


def test_the_digits_are_compared_with_black_paper() -> None:
    """Scikit-learn's digits are light on black; mid-grey, which `mean` would be, is an 8 to the model."""
    from heatmill.catalogue.models import ModelSpec
    from heatmill_workers.models.loading import load

    model = load(ModelSpec(name=digits.NAME, loader="bundled"), torch.device("cpu"))
    (mean,) = background(model, torch.zeros(1, 3, 32, 32), ["mean"])

    assert bundled.BASELINES == {digits.NAME: "black"}
    assert torch.equal(mean, solid_colour(0.5, model.preprocessing).expand_as(mean))
    ((label, probability),) = said(model, mean)
    assert (label, round(probability, 2)) == ("8", 0.75)


class Standardises(nn.Module):
    """Each image by its own mean and spread, of which one of a single colour has none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        even = images - images.mean((1, 2, 3), keepdim=True)
        logits: Tensor = self.head(self.maps(even / even.std((1, 2, 3), keepdim=True)).relu().mean((2, 3)))
        return logits


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_a_baseline_that_the_model_cannot_read_is_told(method: str) -> None:
    model = loaded(Standardises())
    for answer in explain(method, model, images(), TARGETS, {"baseline": "mean"}):
        assert isinstance(answer, UnsupportedOperation)
        assert "give another baseline" in str(answer)
    for answer in explain(method, model, images(), TARGETS, {"baseline": "blur"}):
        assert not isinstance(answer, UnsupportedOperation) or "divide" in str(answer) or "std" in str(answer)
