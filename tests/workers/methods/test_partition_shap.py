"""Partition SHAP is exact where every order can be tried, and shap's, value for value, where sides halve evenly."""

import cv2
import numpy as np
import pytest
import shap
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import solid_colour
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.self_check import SMALLEST_DIFFERENCE
from tests.workers.engine.perturbation.test_owen import mean_over, orders
from tests.workers.small import loaded, photos, small_resnet

TARGETS = torch.tensor([3, 7])


def explained(model: LoadedModel, images: Tensor, targets: Tensor, **params: object) -> list[Explanation]:
    entries = explain("partition_shap", model, images, targets, params)
    assert all(isinstance(entry, Explanation) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Explanation)]


def shaps(model: LoadedModel, image: Tensor, target: int, background: NDArray[np.float32], evals: int) -> Tensor:
    """The library's values, (3, H, W), of the target's logit."""

    def logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return np.asarray(model.module(inputs)[:, target])

    photo = image.permute(1, 2, 0).numpy()
    explainer = shap.PartitionExplainer(logits, shap.maskers.Image(background, photo.shape))
    return torch.from_numpy(explainer(photo[None], max_evals=evals, silent=True).values[0]).permute(2, 0, 1)


def background_of(masker: str, image: Tensor) -> NDArray[np.float32]:
    photo = image.permute(1, 2, 0).numpy()
    if masker == "blur":
        return np.asarray(cv2.blur(photo, (36, 36)))
    if masker == "mean":
        return np.zeros_like(photo)
    colour = solid_colour({"black": 0.0, "white": 1.0}[masker], small_resnet().preprocessing).flatten().numpy()
    return np.broadcast_to(colour, photo.shape).copy()


@pytest.mark.parametrize(("masker", "evals"), [("blur", 60), ("mean", 100), ("white", 33)])
def test_it_is_shaps_under_the_same_masks(masker: str, evals: int) -> None:
    (image,) = photos(1)
    wanted = shaps(small_resnet(), image, 7, background_of(masker, image), evals).sum(0).numpy()

    (entry,) = explained(small_resnet(), image[None], TARGETS[1:], masker=masker, max_evals=evals)

    assert entry.attribution.shape == (1, 64, 64)
    np.testing.assert_allclose(entry.attribution[0], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


class Products(nn.Module):
    """A game in which pixels need each other: sums of products of neighbours."""

    def forward(self, images: Tensor) -> Tensor:
        seen = images.mean(1).flatten(1)
        scores = [seen.prod(1), seen[:, 0] * seen[:, -1] + seen[:, 1], (seen[:, 0] + seen[:, -1]).relu() - seen[:, 2]]
        return torch.stack([*scores, *[seen.sum(1)] * 7], 1)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_with_evaluations_enough_it_is_shaps_down_to_the_pixel(target: int) -> None:
    model, (image,) = loaded(Products(), side=4), photos(1, side=4)
    wanted = shaps(model, image, target, np.zeros((4, 4, 3), np.float32), 10_000)

    (entry,) = explained(model, image[None], torch.tensor([target]), masker="mean", max_evals=10_000)

    np.testing.assert_allclose(entry.attribution[0], wanted.sum(0), rtol=1e-4, atol=1e-6)


class Bent(nn.Module):
    """A game of an odd side in which the hierarchy of boxes decides the values."""

    def forward(self, images: Tensor) -> Tensor:
        seen = images.mean(1).flatten(1)
        weights = torch.randn(seen.shape[1], 10, generator=torch.Generator().manual_seed(0))
        return 2 * (seen @ weights).tanh() + (seen[:, :3].prod(1) * seen[:, -1])[:, None]


class Turned(nn.Module):
    """The same game on a board that is turned by half a turn."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = Bent()(images.flip(2, 3))
        return logits


def test_at_an_odd_side_it_is_the_mean_over_the_orders_that_keep_boxes_together() -> None:
    model, (image,) = loaded(Bent(), side=3), photos(1, side=3)

    def logit(shown: NDArray[np.bool_]) -> float:
        return float(model.module((image * torch.from_numpy(shown))[None])[0, 1])

    (entry,) = explained(model, image[None], torch.tensor([1]), masker="mean", max_evals=10_000)

    wanted = mean_over(orders((0, 3, 0, 3)), logit, 3, 3)
    np.testing.assert_allclose(entry.attribution[0], wanted, rtol=1e-3, atol=1e-5)


def test_at_an_odd_side_shap_has_the_values_of_the_image_turned_by_half_a_turn() -> None:
    """It gives the larger half to the top and the left, and here it is the bottom and the right."""
    (image,), target = photos(1, side=5), torch.tensor([1])
    wanted = shaps(loaded(Bent(), side=5), image, 1, np.zeros((5, 5, 3), np.float32), 10_000).sum(0).numpy()
    params = {"masker": "mean", "max_evals": 10_000}

    (entry,) = explained(loaded(Bent(), side=5), image[None], target, **params)
    (turned,) = explained(loaded(Turned(), side=5), image[None].flip(2, 3), target, **params)

    np.testing.assert_allclose(turned.attribution[0, ::-1, ::-1], wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(entry.attribution[0] - wanted).max() > 0.05 * np.abs(wanted).max()


def test_it_sums_to_the_change_of_the_logit() -> None:
    images = photos(2)

    for image, target, entry in zip(
        images, TARGETS, explained(small_resnet(), images, TARGETS, masker="mean", max_evals=30), strict=True
    ):
        logits = small_resnet().module(torch.stack([image, torch.zeros_like(image)]))[:, target]
        assert entry.checks["logit_difference"] == pytest.approx(float(logits[0] - logits[1]), rel=1e-3, abs=1e-5)
        assert float(entry.checks["completeness_error"]) < 1e-3
        assert entry.verdict == ("ok" if abs(logits[0] - logits[1]) >= SMALLEST_DIFFERENCE else "imprecise")


class Counts(nn.Module):
    """Notes how many images go through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.rows = 0

    def forward(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        logits: Tensor = self.inner(images)
        return logits


def test_the_targets_of_an_image_share_what_both_ask_for() -> None:
    counts = Counts(nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 10)))
    model, images = loaded(counts), photos(1)
    counts.rows = 0
    alone = [explained(model, images, target[None], max_evals=60)[0] for target in TARGETS]
    separately, counts.rows = counts.rows, 0

    together = explained(model, images.expand(2, -1, -1, -1), TARGETS, max_evals=60)

    assert separately == 120
    assert 60 <= counts.rows < 110
    for entry, want in zip(together, alone, strict=True):
        np.testing.assert_allclose(entry.attribution, want.attribution, rtol=1e-4, atol=1e-7)
