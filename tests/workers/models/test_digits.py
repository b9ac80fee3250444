"""The bundled ViT for digits: it is the file that the training script wrote, and it learned to read."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import ModelSpec
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models import digits, train_digits
from heatmill_workers.models.loading import load
from tests.workers.small import CPU


@cache
def model() -> LoadedModel:
    return load(ModelSpec(name=digits.NAME, loader="bundled"), CPU)


@cache
def held_out() -> train_digits.Split:
    return train_digits.splits()[1]


def written() -> dict[str, str]:
    with safe_open(digits.weights_path(), "pt") as file:
        return dict(file.metadata())


def test_it_reads_the_digits_that_it_was_not_trained_on_as_well_as_it_says() -> None:
    measured = train_digits.accuracy(model().module, held_out())

    assert measured > 0.95
    assert measured == pytest.approx(float(written()["accuracy"]), abs=1e-3)


def test_nothing_that_was_held_out_was_trained_on() -> None:
    (images, _), (others, _) = train_digits.splits()

    assert (len(images), len(others)) == (1347, 450)
    assert not {image.numpy().tobytes() for image in images} & {image.numpy().tobytes() for image in others}


def test_it_reads_dark_ink_on_light_paper_too() -> None:
    images, targets = held_out()

    assert train_digits.accuracy(model().module, (-images, targets)) > 0.95


def test_the_file_is_small_and_the_one_that_was_written() -> None:
    assert digits.weights_path().stat().st_size < 2_000_000
    assert model().digest == written()["digest"]


def test_it_can_be_asked_for_by_label_or_index_and_three_is_three() -> None:
    catalogue = load_catalogue()

    assert catalogue.target_index(digits.NAME, "3") == catalogue.target_index(digits.NAME, 3) == 3
    catalogue.check_supported(digits.NAME, "attention_gradient")


def test_attention_lies_on_the_ink() -> None:
    """Of what it learned, not of where the ink happens to be: images are centred, so their border is the paper."""
    images, targets = held_out()
    entries = explain("attention_gradient", model(), images[:32], targets[:32], {})
    maps = np.stack([entry.attribution[0] for entry in entries if isinstance(entry, Explanation)])
    ink = torch.nn.functional.avg_pool2d(images[:32].mean(1, keepdim=True), 4)[:, 0].numpy()

    correlations = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(maps, ink, strict=True)]
    assert np.mean(correlations) > 0.2


def test_training_takes_a_step_and_writes_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    monkeypatch.setattr(train_digits, "weights_path", lambda: path)
    monkeypatch.setattr(train_digits, "EPOCHS", 1)
    images, targets = train_digits.splits()[0]
    monkeypatch.setattr(train_digits, "splits", lambda: ((images[:64], targets[:64]), (images[64:96], targets[64:96])))

    train_digits.main()

    with safe_open(path, "pt") as file:
        assert 0 <= float(file.metadata()["accuracy"]) <= 1


def kept_by_worst_first(maps: Tensor, images: Tensor, targets: Tensor) -> float:
    """How much more of the class is left if the patches go onto black paper from the last rank up than from the first.

    The mean over 16 steps, from 1 (the ranks are perfect) to -1; by chance it is 0.
    """
    ranks = maps.flatten(1).argsort(1, descending=True).argsort(1)
    left = []
    for gone in range(4, 64, 4):
        for removed in (ranks >= 64 - gone, ranks < gone):
            pixels = removed.view(-1, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
            with torch.no_grad():
                scores = model().head.scores(model().module(torch.where(pixels, -1.0, images)))
            left.append(scores.gather(1, targets[:, None]).mean())
    last_first, first_first = torch.stack(left).view(-1, 2).mean(0)
    return float(last_first - first_first)


@pytest.mark.parametrize(
    ("method", "params"),
    [("integrated_gradients", {"steps": 16}), ("deep_lift", {}), ("partition_shap", {"max_evals": 64})],
)
def test_against_black_paper_pixels_are_ranked_better_than_by_brightness(method: str, params: dict[str, Any]) -> None:
    images, targets = held_out()[0][:32], held_out()[1][:32]

    def faithfulness(given: Mapping[str, Any]) -> float:
        answers = explain(method, model(), images, targets, given)
        maps = torch.stack([torch.tensor(each.attribution).sum(0) for each in answers if isinstance(each, Explanation)])
        return kept_by_worst_first(functional.avg_pool2d(maps, 4), images, targets)

    catalogue = load_catalogue()
    chosen = catalogue.resolve_params(method, params, catalogue.model(digits.NAME).defaults)
    brightness = kept_by_worst_first(functional.avg_pool2d(images.mean(1), 4), images, targets)
    grey = faithfulness({**chosen, **dict.fromkeys(set(chosen) & {"baseline", "masker"}, "mean")})

    assert faithfulness(chosen) > brightness + 0.15 > grey + 0.15
