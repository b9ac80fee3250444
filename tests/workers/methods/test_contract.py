"""The call around every method: what it refuses, and what it makes of a method's mistakes."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill.errors import (
    BadAttribution,
    ImageUnsuitable,
    InvalidRequest,
    ItemError,
    ItemTooLargeForDevice,
    UnknownMethod,
    UnsupportedOperation,
)
from heatmill.schemas import Verdict
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods import registry
from heatmill_workers.methods.contract import Explanation, MethodOutput, Picture, SelfCheck, flattened, method
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import explainer
from tests.workers.small import LABELS, photos, small_resnet

TARGETS = torch.tensor([3, 7, 0])


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(UnknownMethod, match="'saliencey'"):
        explainer("saliencey")


@pytest.mark.parametrize("params", [{"steps": 0}, {"steps": 1001}, {"step": 5}, {"baseline": "grey"}])
def test_wrong_params_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="integrated_gradients"):
        explain("integrated_gradients", small_resnet(), photos(1), TARGETS[:1], params)


@pytest.mark.parametrize(
    ("images", "targets"),
    [
        (photos(1).double(), TARGETS[:1]),
        (photos(1)[0], TARGETS[:1]),
        (photos(1), TARGETS),
        (photos(1), TARGETS[:1].int()),
        (photos(1), torch.tensor([len(LABELS)])),
        (photos(1), torch.tensor([-1])),
    ],
)
def test_arguments_that_are_not_as_documented_are_errors_of_the_caller(images: Tensor, targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images|targets"):
        explain("saliency", small_resnet(), images, targets, {})


class NoParams(BaseModel):
    """No params."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@pytest.fixture
def returns(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A registered method that returns, or raises, what the test puts under "it"."""
    answer: dict[str, Any] = {}

    @method(NoParams, picture="signed", passes=MethodCost(base=1, per_unit={}))
    def made_up(model: LoadedModel, images: Tensor, targets: Tensor, params: NoParams) -> MethodOutput:
        """Returns what it is told to."""
        if isinstance(answer["it"], Exception):
            raise answer["it"]
        found: MethodOutput = answer["it"]
        return found

    monkeypatch.setattr(registry, "register", lambda: {"made_up": made_up})
    return answer


@pytest.mark.parametrize("verdict", ["ok", "imprecise", None])
def test_a_map_of_zeros_is_blank_however_well_it_was_computed(returns: dict[str, Any], verdict: Verdict | None) -> None:
    values = torch.zeros(3, 3, 2, 2)
    values[1, 0, 1, 1] = 1e-30
    # Channels that cancel leave nothing to draw.
    values[2, 0], values[2, 1] = 1, -1
    returns["it"] = MethodOutput(values, [SelfCheck({}, verdict)] * 3)

    entries = explain("made_up", small_resnet(), photos(3), TARGETS, {})

    assert [entry.verdict for entry in entries if isinstance(entry, Explanation)] == ["blank", verdict, "blank"]


@pytest.mark.parametrize(
    ("picture", "values", "nothing"),
    [("positive", -1.0, True), ("positive", 1.0, False), ("signed", -1.0, False), ("magnitude", -1.0, False)],
)
def test_what_is_drawn_decides_whether_a_map_is_blank(picture: Picture, values: float, nothing: bool) -> None:
    assert flattened(np.full((1, 2, 2), values, np.float32), picture).any() != nothing


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_fail_their_image_only(returns: dict[str, Any], bad: float) -> None:
    values = torch.ones(3, 1, 2, 2)
    values[1, 0, 1, 1] = bad
    returns["it"] = MethodOutput(values)

    entries = explain("made_up", small_resnet(), photos(3), TARGETS, {})

    assert [type(entry) for entry in entries] == [Explanation, BadAttribution, Explanation]


def test_a_check_that_is_not_finite_fails_its_image_only(returns: dict[str, Any]) -> None:
    measured = [SelfCheck({"error": 0.1, "rule": "text"}, "ok"), SelfCheck({"error": float("nan")}, "ok")]
    returns["it"] = MethodOutput(torch.ones(2, 1, 2, 2), measured)

    entries = explain("made_up", small_resnet(), photos(2), TARGETS[:2], {})

    assert isinstance(entries[0], Explanation)
    assert (entries[0].checks, entries[0].verdict) == ({"error": 0.1, "rule": "text"}, "ok")
    assert isinstance(entries[1], BadAttribution)


def test_an_image_that_has_no_answer_fails_alone(returns: dict[str, Any]) -> None:
    error = ImageUnsuitable("one colour")
    returns["it"] = MethodOutput(torch.ones(2, 1, 2, 2), [error, SelfCheck({"error": 0.1}, "ok")])

    entries = explain("made_up", small_resnet(), photos(2), TARGETS[:2], {})

    assert entries[0] is error
    assert isinstance(entries[1], Explanation)


@pytest.mark.parametrize(
    "values", [torch.ones(2, 2, 2), torch.ones(1, 1, 2, 2), torch.ones(2, 2, 2, 2), torch.ones(2, 1, 2, 2).double()]
)
def test_a_wrong_shape_is_an_error_of_the_method(returns: dict[str, Any], values: Tensor) -> None:
    returns["it"] = MethodOutput(values)

    with pytest.raises(ValueError, match="made_up returned"):
        explain("made_up", small_resnet(), photos(2), TARGETS[:2], {})


@pytest.mark.parametrize("error", [UnsupportedOperation("no rule for sort"), ItemTooLargeForDevice("too large")])
def test_what_is_wrong_for_the_model_is_every_images_error(returns: dict[str, Any], error: ItemError) -> None:
    returns["it"] = error

    assert explain("made_up", small_resnet(), photos(2), TARGETS[:2], {}) == [error, error]
