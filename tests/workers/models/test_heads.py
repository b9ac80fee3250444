"""What a model's outputs are: probabilities are right, and what is explained is what goes into the activation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelRefused, ModelUnavailable, UnsupportedOperation
from heatmill_workers.engine.head import Head
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.digest import digest
from heatmill_workers.models.loading import load, prepare
from heatmill_workers.shard.predict import predict, predict_with_features
from tests.workers.small import CPU, architecture, photos

SIDE = 16
IMAGES = photos(3, SIDE)
# Fast settings; every method that needs no attention.
METHODS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "grad_cam": {},
    "deep_lift": {},
    "deep_shap": {"background": ["mean", "black"]},
    "integrated_gradients": {"steps": 8},
    "gradient_shap": {"samples": 8},
    "partition_shap": {"max_evals": 16},
}


class Net(nn.Module):
    """Two convolutions and a linear layer, the same random weights every time; and a function of its logits."""

    def __init__(self, outputs: int, function: Callable[[Tensor], Tensor] = torch.clone) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.last = nn.Linear(8, outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.last(self.trunk(images).mean((2, 3))))


def spec(*labels: str, **fields: Any) -> ModelSpec:
    preprocessing = Preprocessing(resize=SIDE, crop=SIDE)
    return ModelSpec(
        name="net", loader="python", architecture="a:b", labels=labels, preprocessing=preprocessing, **fields
    )


def loaded(module: nn.Module, *labels: str, **fields: Any) -> LoadedModel:
    entry = spec(*labels, **fields)
    return prepare(entry, Built(module.eval(), Preprocessing(resize=SIDE, crop=SIDE), spec_labels(entry) or ()), CPU)


def logits(outputs: int) -> Tensor:
    with torch.no_grad():
        found: Tensor = Net(outputs)(IMAGES)
    return found


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


@pytest.mark.parametrize(
    ("outputs", "function", "fields", "head", "wanted"),
    [
        (4, torch.clone, {}, Head(), lambda z: z.softmax(1)),
        (4, lambda z: z.softmax(1), {}, Head(), lambda z: z.softmax(1)),
        (4, lambda z: z.softmax(1).half(), {}, Head(), lambda z: z.softmax(1)),
        (4, lambda z: z.softmax(1), {"activation": "softmax"}, Head(), lambda z: z.softmax(1)),
        (4, lambda z: z.softmax(1), {"activation": "none"}, Head("none", "probabilities"), lambda z: z.softmax(1)),
        (4, lambda z: z.softmax(1).flip(1), {}, Head("none", "probabilities"), lambda z: z.softmax(1).flip(1)),
        (4, lambda z: z.log_softmax(1), {}, Head("softmax", "log-probabilities"), lambda z: z.softmax(1)),
        (4, torch.clone, {"activation": "sigmoid"}, Head("sigmoid"), torch.sigmoid),
        (4, torch.sigmoid, {}, Head("sigmoid"), torch.sigmoid),
        (4, functional.logsigmoid, {}, Head("sigmoid"), torch.sigmoid),
        (4, functional.hardsigmoid, {}, Head("none", "probabilities"), functional.hardsigmoid),
        (4, torch.tanh, {"activation": "softmax"}, Head(), lambda z: z.tanh().softmax(1)),
        (4, torch.clone, {"activation": "none"}, Head("none", "values"), torch.clone),
        (2, lambda z: z.softmax(1), {}, Head(), lambda z: z.softmax(1)),
    ],
)
def test_probabilities_are_those_that_the_model_means(
    outputs: int,
    function: Callable[[Tensor], Tensor],
    fields: dict[str, Any],
    head: Head,
    wanted: Callable[[Tensor], Tensor],
) -> None:
    model = loaded(Net(outputs, function), *names(outputs), **fields)

    assert model.head == head
    torch.testing.assert_close(predict(model, IMAGES), wanted(logits(outputs)))


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (torch.clone, torch.sigmoid),
        (torch.sigmoid, torch.sigmoid),
        (lambda z: z.sigmoid_(), torch.sigmoid),
        (functional.hardsigmoid, functional.hardsigmoid),
    ],
)
@pytest.mark.parametrize("labels", [("sick",), ("not sick", "sick")])
def test_one_output_is_two_classes(
    labels: tuple[str, ...], function: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor]
) -> None:
    model = loaded(Net(1, function), *labels)

    assert model.labels == ("not sick", "sick")
    second = wanted(logits(1))
    torch.testing.assert_close(predict(model, IMAGES), torch.cat([1 - second, second], 1))


def test_two_classes_by_softmax_inside_can_be_certain() -> None:
    model = loaded(Net(2, lambda z: (100 * z).softmax(1)), *names(2))

    assert predict(model, IMAGES).max() > 0.999


def as_two(z: Tensor) -> Tensor:
    return torch.cat([1 - z.sigmoid(), z.sigmoid()], 1)


def test_two_probabilities_of_one_logit_are_explained_at_that() -> None:
    value, model = loaded(Net(1), "sick", activation="none"), loaded(Net(1, as_two), "well", "sick")

    second = torch.sigmoid(logits(1))
    torch.testing.assert_close(predict(model, IMAGES), torch.cat([1 - second, second], 1))
    for target, sign in ((0, -1), (1, 1)):
        np.testing.assert_allclose(
            found(model, "deep_lift", target), sign * found(value, "deep_lift", 0), rtol=1e-4, atol=1e-6
        )


def found(model: LoadedModel, method: str, target: int) -> np.ndarray[Any, Any]:
    answers = explain(method, model, IMAGES, torch.full((3,), target), METHODS[method])
    assert all(isinstance(each, Explanation) for each in answers), answers
    return np.stack([each.attribution for each in answers if isinstance(each, Explanation)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", [lambda z: z.softmax(1), lambda z: z.exp() / z.exp().sum(1, keepdim=True)])
def test_what_goes_into_softmax_is_explained(method: str, function: Callable[[Tensor], Tensor]) -> None:
    bare, model = loaded(Net(4), *names(4)), loaded(Net(4, function), *names(4))

    np.testing.assert_allclose(found(model, method, 1), found(bare, method, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", [torch.clone, torch.sigmoid])
def test_both_classes_of_one_output_can_be_explained(method: str, function: Callable[[Tensor], Tensor]) -> None:
    value, model = loaded(Net(1), "sick", activation="none"), loaded(Net(1, function), "sick")

    positive = found(value, method, 0)
    np.testing.assert_allclose(found(model, method, 1), positive, rtol=1e-4, atol=1e-6)
    if method != "grad_cam":
        np.testing.assert_allclose(found(model, method, 0), -positive, rtol=1e-4, atol=1e-6)


def test_a_probability_that_has_no_logit_is_explained_itself() -> None:
    model = loaded(Net(1, functional.hardsigmoid), "sick")

    assert model.head.explains == "probability"
    for target, row in ((1, 1), (0, -1)):
        (answer, *_) = explain("deep_lift", model, IMAGES, torch.full((3,), target), {})
        assert isinstance(answer, Explanation)
        first, blank = predict(model, IMAGES)[0, 1], predict(model, torch.zeros_like(IMAGES))[0, 1]
        assert answer.attribution.sum() == pytest.approx(row * float(first - blank), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("function", "fields"), [(torch.clone, {}), (torch.sigmoid, {}), (torch.clone, {"activation": "none"})]
)
def test_lime_s_maps_of_one_output_are_not_blank(function: Callable[[Tensor], Tensor], fields: dict[str, Any]) -> None:
    model = loaded(Net(1, function), "sick", **fields)
    target = 0 if fields else 1
    params = {"segmentation": "grid", "segments": 4, "samples": 50}

    for answer in explain("lime", model, IMAGES, torch.full((3,), target), params):
        assert isinstance(answer, Explanation)
        assert np.abs(answer.attribution).max() > 1e-4


@pytest.mark.parametrize(
    ("module", "labels", "fields", "says"),
    [
        (Net(4, lambda z: z.softmax(1)), 4, {"activation": "sigmoid"}, r'is "sigmoid", but .* ends in softmax already'),
        (Net(4, torch.sigmoid), 4, {"activation": "softmax"}, r'is "softmax", but .* ends in sigmoid already'),
        (Net(4, torch.tanh), 4, {}, r"between bounds.*set `activation`"),
        (Net(1, torch.tanh), 1, {}, r"between bounds.*set `activation`"),
        (Net(1, lambda z: 100 * z.sigmoid()), 1, {}, r"between bounds.*set `activation`"),
        (Net(1), 1, {"activation": "softmax"}, r"one number, whose softmax is always 1"),
        (Net(1, lambda z: z.softmax(1)), 1, {}, r"one number that is the same for every image"),
        (Net(1, lambda z: z.log_softmax(1)), 1, {}, r"one number that is the same for every image"),
    ],
)
def test_what_cannot_be_told_is_refused(module: nn.Module, labels: int, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelRefused, match=says):
        loaded(module, *names(labels), **fields)


@pytest.mark.parametrize(
    ("outputs", "labels", "fields", "says"),
    [
        (2, ("sick",), {}, "has 2 classes and 1 labels"),
        (1, ("a", "b", "c"), {}, r"one number, the logit of one of two classes, and has 3 labels"),
        (1, ("a", "b"), {"activation": "none"}, r"one value and has 2 labels"),
        (3, ("a", "b"), {"activation": "none"}, r"has 3 classes and 2 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    outputs: int, labels: tuple[str, ...], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelUnavailable, match=says):
        loaded(Net(outputs), *labels, **fields)


def test_a_model_keeps_the_names_of_its_parts_and_its_digest() -> None:
    model = loaded(Net(1, torch.sigmoid), "sick", cam_layer="trunk.0")

    assert model.cut is not None
    assert model.cut.shape == (8, SIDE - 2, SIDE - 2)
    assert model.digest == digest(Net(1))


@pytest.mark.parametrize("function", [torch.clone, torch.sigmoid, as_two, functional.hardsigmoid])
def test_the_features_are_those_before_the_last_layer_of_one_output(function: Callable[[Tensor], Tensor]) -> None:
    model = loaded(Net(1, function), "well", "sick")

    prediction = predict_with_features(model, IMAGES)

    assert (prediction.source, prediction.features is not None) == ("classifier input", True)
    assert prediction.features is not None
    assert prediction.features.shape == (3, 8)


def test_an_image_whose_logit_is_not_finite_has_no_probability() -> None:
    model = loaded(Net(4), *names(4), activation="sigmoid")
    images = IMAGES.clone()
    images[1] = torch.inf

    assert predict(model, images).isfinite().all(1).tolist() == [True, False, True]


class Changing(nn.Module):
    """Takes another way to its softmax later, as one that decides by the image may."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.goes_on = Net(4), False

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.net(images)
        first = values.softmax(1)
        return (first * values.square()).softmax(1) if self.goes_on else first


def test_a_model_whose_head_moves_is_not_read_wrongly() -> None:
    module = Changing()
    model = loaded(module, *names(4))

    predict(model, IMAGES)
    module.goes_on = True
    with pytest.raises(UnsupportedOperation, match="head moved"):
        predict(model, IMAGES)


@pytest.mark.parametrize("given", [("sick",), ("well", "sick")])
def test_weights_of_one_output_fit_an_architecture_that_is_known_by_name(
    given: tuple[str, ...], tmp_path: Path
) -> None:
    safetensors.torch.save_file(architecture("resnet18", classes=1).state_dict(), tmp_path / "w.safetensors")
    entry = spec(*given, weights=tmp_path / "w.safetensors").model_copy(
        update={"loader": "torchvision", "architecture": "resnet18", "preprocessing": Preprocessing(resize=64, crop=64)}
    )

    model = load(entry, CPU)

    assert (model.head, len(model.labels)) == (Head("sigmoid", one_output=True), 2)


def test_a_value_has_no_probability() -> None:
    model = loaded(Net(3), *names(3), activation="none")

    assert not model.head.has_probabilities
    assert (model.head.explains, model.head.scores_are) == ("value", "value")
    assert replace(model.head, outputs="log-probabilities").explains == "log-probability"
