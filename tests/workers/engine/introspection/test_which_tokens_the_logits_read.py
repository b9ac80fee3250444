"""Attention is read at the tokens that the logits read, if these are the same for every image and class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.methods.explain import explain
from tests.workers.engine.introspection.test_all_attention_is_seen import Layers, found, seen
from tests.workers.engine.introspection.test_which_token_is_which_patch import CLASS, PATCHES, explained
from tests.workers.small import LABELS, loaded, photos


class Reads(Layers):
    """Logits from tokens that `choose` makes of all."""

    def __init__(self, choose: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__([seen, seen], [CLASS, 17, *PATCHES])
        self.choose = choose

    def forward(self, images: Tensor) -> Tensor:
        self.brightest = functional.avg_pool2d(images.mean(1, keepdim=True), 16).flatten(1).argmax(1) + 2
        return self.choose(self.blocks(self.embedded(images)), self)


def row(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens)), index]


def head(tokens: Tensor, model: Any) -> Tensor:
    logits: Tensor = model.head(tokens)
    return logits


OF_THE_IMAGE: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "the largest logit": lambda tokens, model: head(tokens[:, 2:], model).amax(1),
    "the best three": lambda tokens, model: head(tokens[:, 2:], model).topk(3, 1).values.mean(1),
    "the largest feature": lambda tokens, model: head(tokens.amax(1), model),
    "one token": lambda tokens, model: head(row(tokens, tokens[..., 0].argmax(1)), model),
    "a token by the image": lambda tokens, model: head(row(tokens, model.brightest), model),
    "the class token or the patches": lambda tokens, model: head(
        torch.where(tokens[:, :1, 0] > 0, tokens[:, 0], tokens.mean(1)), model
    ),
}


@pytest.mark.parametrize("name", OF_THE_IMAGE)
def test_a_model_that_reads_other_tokens_for_another_image_is_refused(name: str) -> None:
    assert found(Reads(OF_THE_IMAGE[name])).reason == "which tokens its logits read depends on the image"


def of_classes(tokens: Tensor, model: Any) -> Tensor:
    """A token for each class."""
    logits: Tensor = (tokens[:, : len(LABELS)] * model.head.weight).sum(2)
    return logits


def of_two_groups(tokens: Tensor, model: Any) -> Tensor:
    return torch.cat([head(tokens[:, 0], model)[:, :3], head(tokens[:, 1], model)[:, 3:]], 1)


def of_all_but_one(tokens: Tensor, model: Any) -> Tensor:
    return torch.cat([head(tokens[:, 0], model)[:, :2], head(tokens[:, 1], model)[:, 2:3], tokens[:, 0, 3:10]], 1)


@pytest.mark.parametrize("choose", [of_classes, of_two_groups, of_all_but_one])
def test_a_model_whose_classes_read_different_tokens_is_refused(choose: Callable[[Tensor, Any], Tensor]) -> None:
    assert found(Reads(choose)).reason == "which tokens its logits read depends on the class"


def fewer_for_one(tokens: Tensor, model: Any) -> Tensor:
    logits = head(tokens[:, :2].mean(1), model)
    return torch.cat([logits[:, :2], head(tokens[:, 0], model)[:, 2:3], logits[:, 3:]], 1)


def test_a_class_that_reads_other_tokens_than_the_others_is_refused_where_its_gradient_tells() -> None:
    model = loaded(Reads(fewer_for_one))

    (entry,) = explain("attention_gradient", model, photos(1), torch.tensor([2]), {})

    assert isinstance(entry, UnsupportedOperation)
    assert "depends on the image or the class" in str(entry)


def test_tokens_that_are_the_same_for_every_image_are_read_wherever_they_stand() -> None:
    middle = Reads(lambda tokens, model: head(tokens[:, 7:9].mean(1), model))

    tokens = found(middle).tokens
    assert tokens is not None
    assert tokens.readout_tokens == (7, 8)
    assert explained("attention", middle).shape == (2, 1, 4, 4)
