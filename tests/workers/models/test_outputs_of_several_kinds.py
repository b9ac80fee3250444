"""Outputs of which some are no logits: classes that are ruled out, and values beside probabilities."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import ModelRefused
from heatmill_workers.engine.head import Head
from heatmill_workers.shard.predict import predict
from tests.workers.models.test_heads import IMAGES, Net, found, loaded, logits, names

RULED_OUT = torch.tensor([False, True, False, False])


def without_the_second(z: Tensor) -> Tensor:
    return z.masked_fill(RULED_OUT, -torch.inf)


@pytest.mark.parametrize("ending", [torch.clone, lambda z: z.softmax(1), lambda z: z.log_softmax(1)])
def test_a_class_that_is_ruled_out_has_no_probability_and_the_others_are_explained(
    ending: Callable[[Tensor], Tensor],
) -> None:
    bare, model = loaded(Net(4), *names(4)), loaded(Net(4, lambda z: ending(without_the_second(z))), *names(4))

    torch.testing.assert_close(predict(model, IMAGES), without_the_second(logits(4)).softmax(1))
    if model.head.outputs == "logits":
        for method in ("saliency", "deep_lift", "integrated_gradients"):
            np.testing.assert_allclose(found(model, method, 2), found(bare, method, 2), rtol=1e-4, atol=1e-6)


def test_a_model_that_rules_out_all_classes_is_refused() -> None:
    with pytest.raises(ModelRefused, match="not finite"):
        loaded(Net(4, lambda z: z * 0 - torch.inf), *names(4))


def test_outputs_that_float32_hardly_holds_are_no_rows_that_mix() -> None:
    assert loaded(Net(4, lambda z: z * 1e-40), *names(4)).head == Head()


def written(z: Tensor) -> Tensor:
    out = z.new_zeros(len(z), 5)
    out[:, :4] = z[:, :4].softmax(1)
    out[:, 4] = z[:, 4]
    return out


def written_into_a_part(z: Tensor) -> Tensor:
    out = torch.zeros(z.shape)
    out[:, :4].copy_(z[:, :4].sigmoid())
    out[:, 4:].copy_(z[:, 4:])
    return out


def activated_in_place(z: Tensor) -> Tensor:
    z[:, :4].sigmoid_()
    return z


OF_TWO_KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax and a value": lambda z: torch.cat([z[:, :4].softmax(1), z[:, 4:] * 20 + 40], 1),
    "sigmoid and linear": lambda z: torch.cat([z[:, :4].sigmoid(), z[:, 4:]], 1),
    "linear and sigmoid, clamped": lambda z: torch.hstack((z[:, :4], z[:, 4:].sigmoid())).clamp(-9, 9),
    "by hand": lambda z: torch.cat([1 / (1 + (-z[:, :4]).exp()), functional.gelu(z[:, 4:])], 1),
    "logits and a positive value": lambda z: torch.cat([z[:, :4], functional.softplus(z[:, 4:])], 1),
    "stacked": lambda z: torch.stack([z[:, 0].sigmoid(), z[:, 1]], 1),
    "log-probabilities": lambda z: torch.cat([z[:, :4].log_softmax(1), z[:, 4:]], dim=1).round(decimals=4),
    "written": written,
    "written into a part": written_into_a_part,
    "in place": activated_in_place,
}


@pytest.mark.parametrize("name", OF_TWO_KINDS)
def test_outputs_of_two_kinds_are_refused_unless_the_operator_says_what_they_are(name: str) -> None:
    outputs = 2 if name == "stacked" else 5
    with pytest.raises(ModelRefused, match=r"numbers of several kinds.*set `activation`"):
        loaded(Net(5, OF_TWO_KINDS[name]), *names(outputs))

    assert loaded(Net(5, OF_TWO_KINDS[name]), *names(outputs), activation="none").head == Head("none", "values")


@pytest.mark.parametrize(
    "function",
    [
        lambda z: torch.cat([z[:, :2], 3 * z[:, 2:]], 1),
        lambda z: torch.cat([torch.zeros(len(z), 1), z[:, 1:]], 1),
        lambda z: functional.linear(torch.cat([z.sigmoid(), z], 1), torch.eye(4, 8) + 0.3),
        lambda z: torch.cat([functional.gelu(z[:, :2]), z[:, 2:].relu()], 1),
    ],
)
def test_what_is_joined_of_one_kind_or_before_the_last_layer_are_logits(function: Callable[[Tensor], Tensor]) -> None:
    assert loaded(Net(4, function), *names(4)).head == Head()
