"""The pass that predicts serves the methods that take one gradient, and changes nothing of what they say."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ImageUnreadable, ItemError
from heatmill.schemas import Item, MethodRequest, Plan, Row, Target
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loading import prepare
from heatmill_workers.shard.explain import Result, explain_items
from heatmill_workers.shard.prefetch import FailedItem, ReadyItem
from tests.workers.processed import counted
from tests.workers.small import CPU, loaded, photos, small_resnet, small_vit

BOX = (0.0, 0.0, 64.0, 64.0)
BOTH = ("saliency", "grad_cam")


def plan(*methods: str, **fields: Any) -> Plan:
    asked = [MethodRequest(name=name, params={}) for name in methods]
    return Plan(model="small", methods=asked, shards=1, items=1, results=1, **{"top_k": 1, **fields})


def group(images: Tensor, **fields: Any) -> list[ReadyItem]:
    return [
        ReadyItem(Item(index=index, id=str(index), image="upload://", **fields), image, BOX)
        for index, image in enumerate(images)
    ]


def explained(model: LoadedModel, images: Tensor, *methods: str) -> dict[tuple[str, str], Explanation]:
    answers = list(explain_items(group(images), plan(*methods), model))
    assert all(isinstance(each, Result) for each in answers), answers
    return {
        (each.method.name, each.asked.photo.item.id): each.explained for each in answers if isinstance(each, Result)
    }


def assert_same(found: Explanation, alone: Explanation | ItemError) -> None:
    assert isinstance(alone, Explanation)
    np.testing.assert_allclose(found.attribution, alone.attribution, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("methods", [("saliency",), ("grad_cam",), BOTH])
@pytest.mark.parametrize("images", [1, 5])
def test_one_pass_predicts_and_explains(methods: tuple[str, ...], images: int) -> None:
    model = small_resnet()
    shown = photos(images)
    explained(model, shown, *methods)

    with counted() as calls:
        found = explained(model, shown, *methods)

    assert calls.count("ResNet") == 1
    targets = model.module(shown).argmax(1)
    for name in methods:
        alone = explain(name, model, shown, targets, {})
        for index, answer in enumerate(alone):
            assert_same(found[name, str(index)], answer)


def test_the_methods_answer_for_the_items_own_targets() -> None:
    model, shown = small_resnet(), photos(3)
    answers = list(explain_items(group(shown, target=7), plan(*BOTH), model))

    outcomes = [each for each in answers if isinstance(each, Result)]
    assert [each.asked.target.index for each in outcomes] == [7] * 6
    (of_first,) = [each for each in outcomes if each.method.name == "saliency" and each.asked.photo.item.id == "0"]
    (alone,) = explain("saliency", model, shown[:1], torch.tensor([7]), {})
    assert_same(of_first.explained, alone)


def test_a_photo_without_a_target_of_the_model_leaves_the_others_right() -> None:
    model, shown = small_resnet(), photos(3)
    entries = group(shown)
    entries[1] = ReadyItem(Item(index=1, id="1", image="upload://", target=99), shown[1], BOX)
    answers = list(explain_items([*entries, FailedItem(entries[0].item, ImageUnreadable("no"))], plan(*BOTH), model))

    failed = [each for each in answers if isinstance(each, Row)]
    assert sorted((row.item, row.method, str(row.error and row.error.type)[-14:]) for row in failed) == sorted(
        [("1", name, "target_unknown") for name in BOTH] + [("0", name, "age_unreadable") for name in BOTH]
    )
    targets = model.module(shown).argmax(1)
    for each in answers:
        if isinstance(each, Result):
            row = int(each.asked.photo.item.id)
            (alone,) = explain(each.method.name, model, shown[row : row + 1], targets[row : row + 1], {})
            assert_same(each.explained, alone)


def test_several_classes_of_a_photo_are_explained_as_before() -> None:
    model, shown = small_resnet(), photos(2)

    answers = list(explain_items(group(shown), plan("saliency", top_k=2), model))

    assert [type(each) for each in answers] == [Result] * 4


def test_a_model_without_a_spatial_layer_still_has_its_saliency() -> None:
    answers = list(explain_items(group(photos(2)), plan(*BOTH), small_vit()))

    assert [each.method.name for each in answers if isinstance(each, Result)] == ["saliency"] * 2
    errors = [each.error for each in answers if isinstance(each, Row)]
    assert [error and error.type.rpartition("/")[2] for error in errors] == ["unsupported_operation"] * 2


class Detached(nn.Module):
    """Its logits have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.mean((2, 3)))
        return logits.detach()


def test_a_model_without_gradients_says_so_for_each_result() -> None:
    answers = list(explain_items(group(photos(2)), plan("saliency"), loaded(Detached())))

    errors = [each.error for each in answers if isinstance(each, Row)]
    assert len(errors) == len(answers) == 2
    assert all(error and error.type.endswith("unsupported_operation") for error in errors)


class Means(nn.Module):
    """Puts out the mean of each channel: of images that are one number a channel, those numbers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.last = nn.Linear(3, count)
        nn.init.eye_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.last(images.mean((2, 3)))
        return values


def of_means(*labels: str, **fields: Any) -> LoadedModel:
    spec = ModelSpec(name="means", loader="timm", labels=labels, **fields)
    built = Built(Means(len(labels)).eval(), Preprocessing(resize=64, crop=64), spec_labels(spec) or ())
    return prepare(spec, built, CPU)


def targets_of(model: LoadedModel, *channels: float, **fields: Any) -> list[Target]:
    image = torch.tensor(channels, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    item = {key: fields.pop(key) for key in ("target",) if key in fields}
    answers = list(explain_items(group(image, **item), plan("saliency", **fields), model))
    assert all(isinstance(each, Result) for each in answers), answers
    return [each.asked.target for each in answers if isinstance(each, Result)]


def test_a_regression_says_its_values_in_the_model_s_order_and_no_probability() -> None:
    model = of_means("age", "height", "weight", activation="none")

    assert targets_of(model, 0.5, -7, 3) == [Target(index=0, label="age", value=0.5)]
    assert targets_of(model, 0.5, -7, 3, top_k=3) == [
        Target(index=0, label="age", value=0.5),
        Target(index=1, label="height", value=-7),
        Target(index=2, label="weight", value=3),
    ]
    assert targets_of(model, 0.5, -7, 3, target=2) == [Target(index=2, label="weight", value=3)]


def test_independent_labels_have_each_their_own_probability_and_the_most_probable_come_first() -> None:
    model = of_means("cat", "dog", "bird", activation="sigmoid")

    found = targets_of(model, 0.5, 2, 1, top_k=2)

    assert [target.label for target in found] == ["dog", "bird"]
    assert [target.probability for target in found] == pytest.approx([0.880797, 0.731059], abs=1e-5)


@pytest.mark.parametrize(("logit", "label", "probability"), [(2, "sick", 0.880797), (-3, "not sick", 0.952574)])
def test_one_output_says_the_class_that_is_more_probable(logit: float, label: str, probability: float) -> None:
    (found,) = targets_of(of_means("sick"), logit, 0, 0)

    assert (found.label, found.value) == (label, None)
    assert found.probability == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize(("activation", "what"), [("none", "values"), ("sigmoid", "classes")])
def test_a_target_that_there_is_not_says_how_many_there_are(activation: Any, what: str) -> None:
    images = photos(1)

    rows = list(explain_items(group(images), plan("saliency", top_k=5), of_means("a", "b", "c", activation=activation)))

    details = {row.error.detail for row in rows if isinstance(row, Row) and row.error is not None}
    assert (len(rows), details) == (5, {f"the model has 3 {what}, from 0 to 2"})


def test_a_value_that_is_not_finite_is_an_error() -> None:
    for activation in ("none", "sigmoid", "softmax"):
        model = of_means("a", "b", "c", activation=activation)
        (row,) = explain_items(group(torch.full((1, 3, 64, 64), torch.inf)), plan("saliency"), model)
        assert isinstance(row, Row)
        assert row.error is not None
        assert "not finite" in row.error.detail


def test_memory_that_runs_out_while_a_pass_is_kept_halves_the_batch() -> None:
    class Small(nn.Module):
        """Takes two images at a time."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 10)

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 2:
                raise MemoryError
            logits: Tensor = self.inner(images.mean((2, 3)))
            return logits

    found = explained(loaded(Small()), photos(5), "saliency")

    assert len(found) == 5
