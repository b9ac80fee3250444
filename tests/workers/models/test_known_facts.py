"""What was proved of a model is taken again where nothing has changed that it depends on."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import Preprocessing
from heatmill.schemas import ModelFacts
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.models.loading import Proofs, prepare, proof_key
from tests.workers.models.proof.subjects import (
    LABELS,
    PREPROCESSING,
    Flattens,
    Net,
    entry,
    noise,
    seeded,
)
from tests.workers.small import CPU


class Counts(Net):
    passes = 0

    def forward(self, images: Tensor) -> Any:
        Counts.passes += 1
        return super().forward(images)


def test_known_facts_make_the_same_model_without_another_proof() -> None:
    kept: dict[str, ModelFacts] = {}
    spec = entry(loader="torchvision", architecture="resnet18")
    proofs = Proofs("code", kept.get, lambda _, facts: kept.update({facts.key: facts}))
    counts = [Counts.passes]

    def load() -> LoadedModel:
        model = prepare(spec, Built(seeded(Counts), PREPROCESSING, LABELS), CPU, proofs)
        counts.append(Counts.passes)
        return model

    first, second = load(), load()

    proving, knowing = (after - before for before, after in pairwise(counts))
    # A fold is laid out by two passes, also where it is known.
    assert proving - knowing >= 10
    assert list(kept.values()) == [first.facts] == [second.facts]
    assert first.facts.supports == ("gradients", "operations", "spatial layer")
    assert torch.equal(first.module(noise()), second.module(noise()))
    kept[first.facts.key] = first.facts.model_copy(update={"folded_norms": 0})
    third = prepare(spec, Built(seeded(Counts), PREPROCESSING, LABELS), CPU, proofs)
    assert isinstance(third.module.get_submodule("norm"), nn.BatchNorm2d)
    other = prepare(spec, Built(seeded(Flattens), PREPROCESSING, LABELS), CPU, proofs)
    assert other.facts.key != first.facts.key


class Named(nn.Module):
    """Prints a setting, as a transformers model prints its config.json, and where in memory a function lies."""

    def __init__(self, setting: str) -> None:
        super().__init__()
        self.setting = setting

    def extra_repr(self) -> str:
        """Differs in each process."""
        return f"{self.setting} {object()}"


def test_facts_are_those_of_the_weights_the_entry_what_the_loader_found_the_type_of_device_and_the_code() -> None:
    card, named = torch.device("cuda:0"), entry(loader="transformers", preprocessing=None)
    built = Built(Named("12 heads"), PREPROCESSING, LABELS)
    known = proof_key(named, built, "weights", card, "code")
    others = [
        proof_key(named, built, "other weights", card, "code"),
        proof_key(entry(loader="transformers", preprocessing=None, dtype="bfloat16"), built, "weights", card, "code"),
        proof_key(named, built, "weights", CPU, "code"),
        proof_key(named, built, "weights", card, "other code"),
        proof_key(named, replace(built, module=Named("6 heads")), "weights", card, "code"),
        proof_key(named, replace(built, activation="sigmoid"), "weights", card, "code"),
        proof_key(named, replace(built, preprocessing=Preprocessing(resize=32)), "weights", card, "code"),
    ]

    assert known not in others
    assert len(set(others)) == len(others)
    assert known == proof_key(
        named, replace(built, module=Named("12 heads")), "weights", torch.device("cuda:1"), "code"
    )


def test_an_operators_own_code_is_proved_in_each_process() -> None:
    asked: list[str] = []
    prepare(entry(), Built(seeded(Net), PREPROCESSING, LABELS), CPU, Proofs("code", asked.append))

    assert not asked
