"""The pass that predicts serves the methods that take one gradient, and changes nothing of what they say."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import ImageUnreadable, ItemError
from heatmill.schemas import Item, MethodRequest, Plan, Row
from heatmill_workers.explainer import Explained, explain
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.prepare import Prepared, Unprepared
from heatmill_workers.rows import Outcome, explain_items
from tests.workers.processed import counted
from tests.workers.small import loaded, photos, small_resnet, small_vit

BOX = (0.0, 0.0, 64.0, 64.0)
BOTH = ("saliency", "grad_cam")


def plan(*methods: str, **fields: Any) -> Plan:
    asked = [MethodRequest(name=name, params={}) for name in methods]
    return Plan(model="small", methods=asked, shards=1, items=1, results=1, **{"top_k": 1, **fields})


def group(images: Tensor, **fields: Any) -> list[Prepared]:
    return [
        Prepared(Item(index=index, id=str(index), image="upload://", **fields), image, BOX)
        for index, image in enumerate(images)
    ]


def explained(model: LoadedModel, images: Tensor, *methods: str) -> dict[tuple[str, str], Explained]:
    answers = list(explain_items(group(images), plan(*methods), model))
    assert all(isinstance(each, Outcome) for each in answers), answers
    return {
        (each.method.name, each.asked.photo.item.id): each.explained for each in answers if isinstance(each, Outcome)
    }


def assert_same(found: Explained, alone: Explained | ItemError) -> None:
    assert isinstance(alone, Explained)
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

    outcomes = [each for each in answers if isinstance(each, Outcome)]
    assert [each.asked.target.index for each in outcomes] == [7] * 6
    (of_first,) = [each for each in outcomes if each.method.name == "saliency" and each.asked.photo.item.id == "0"]
    (alone,) = explain("saliency", model, shown[:1], torch.tensor([7]), {})
    assert_same(of_first.explained, alone)


def test_a_photo_without_a_target_of_the_model_leaves_the_others_right() -> None:
    model, shown = small_resnet(), photos(3)
    entries = group(shown)
    entries[1] = Prepared(Item(index=1, id="1", image="upload://", target=99), shown[1], BOX)
    answers = list(explain_items([*entries, Unprepared(entries[0].item, ImageUnreadable("no"))], plan(*BOTH), model))

    failed = [each for each in answers if isinstance(each, Row)]
    assert sorted((row.item, row.method, str(row.error and row.error.type)[-14:]) for row in failed) == sorted(
        [("1", name, "target_unknown") for name in BOTH] + [("0", name, "age_unreadable") for name in BOTH]
    )
    targets = model.module(shown).argmax(1)
    for each in answers:
        if isinstance(each, Outcome):
            row = int(each.asked.photo.item.id)
            (alone,) = explain(each.method.name, model, shown[row : row + 1], targets[row : row + 1], {})
            assert_same(each.explained, alone)


def test_several_classes_of_a_photo_are_explained_as_before() -> None:
    model, shown = small_resnet(), photos(2)

    answers = list(explain_items(group(shown), plan("saliency", top_k=2), model))

    assert [type(each) for each in answers] == [Outcome] * 4


def test_a_model_without_a_spatial_layer_still_has_its_saliency() -> None:
    answers = list(explain_items(group(photos(2)), plan(*BOTH), small_vit()))

    assert [each.method.name for each in answers if isinstance(each, Outcome)] == ["saliency"] * 2
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
