"""Paths that are refined: points where the logit bends, none twice, and what memory holds."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from heatmill_workers.engine.gradient import refining
from heatmill_workers.engine.gradient.refining import (
    PathQuadrature,
    allocate_points,
    cut,
    freeze_intervals,
    sample,
    trail,
    weighted,
)
from heatmill_workers.engine.loaded_model import LoadedModel
from tests.workers.small import loaded

SIDE = 8


class Bends(nn.Module):
    """A logit that rises by the image's mean up to a tenth of the way to a mean of 1, and is flat from there."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        return images.mean((1, 2, 3)).clamp(max=0.1).unsqueeze(1) * torch.arange(10)


@pytest.fixture
def model() -> LoadedModel:
    return loaded(Bends(), SIDE)


IMAGE = torch.ones(1, 3, SIDE, SIDE)
TARGET = torch.tensor([5])


def begun(model: LoadedModel, positions: Sequence[float]) -> PathQuadrature:
    return trail(sample(model, (torch.zeros_like(IMAGE), IMAGE), TARGET, [(0, each) for each in positions]), 0.0, 0.5)


def doubled(model: LoadedModel, of: PathQuadrature) -> list[float]:
    """As many points again; says where."""
    chosen = allocate_points(of, of.steps)
    for gap, positions in chosen:
        ends = (torch.zeros_like(IMAGE), IMAGE)
        cut(of, gap, sample(model, ends, TARGET, [(0, each) for each in positions]))
    return [each for _, positions in chosen for each in positions]


def test_a_point_has_the_logit_and_the_gradient_times_the_change(model: LoadedModel) -> None:
    ends = (torch.zeros(2, 3, SIDE, SIDE), torch.stack([IMAGE[0], 2 * IMAGE[0]]))

    low, high, other = sample(model, ends, torch.tensor([5, 2]), [(0, 0.05), (0, 0.5), (1, 0.01)])

    assert (low.position, low.logit, low.slope) == pytest.approx((0.05, 0.25, 5.0))
    assert (high.logit, high.slope) == pytest.approx((0.5, 0.0))
    assert (other.logit, other.slope) == pytest.approx((0.04, 4.0))
    assert other.share is not None
    torch.testing.assert_close(other.share, torch.full((3, SIDE, SIDE), 4 / (3 * SIDE**2)))


def test_a_rule_of_ones_own_is_the_weighted_sum(model: LoadedModel) -> None:
    points = sample(model, (torch.zeros_like(IMAGE), IMAGE), TARGET, [(0, 0.05), (0, 0.5)])

    assert float(weighted(points, [0.1, 0.9]).sum()) == pytest.approx(0.5)


def test_new_points_go_to_the_bend_and_the_sum_becomes_right(model: LoadedModel) -> None:
    path = begun(model, [0.125, 0.375, 0.625, 0.875])
    errors, new = [path.spread], list[float]()

    for _ in range(4):
        new += doubled(model, path)
        errors.append(path.spread)

    assert errors == sorted(errors, reverse=True)
    assert float(path.total.sum()) == pytest.approx(0.5, rel=0.02)
    assert sum(0.05 < each < 0.15 for each in new) > len(new) / 2
    assert len(set(new)) == len(new) == 60
    assert path.steps == 64


def test_no_gradient_is_taken_twice(model: LoadedModel) -> None:
    module = model.module
    assert isinstance(module, Bends)
    before = module.rows
    path = begun(model, [0.25, 0.75])
    doubled(model, path)
    doubled(model, path)

    assert path.steps == 8
    assert module.rows - before == 8


def test_the_total_is_that_of_trapezoids_between_all_points(model: LoadedModel) -> None:
    path = begun(model, [0.25, 0.75])
    positions = sorted([0.25, 0.75, *doubled(model, path), *doubled(model, path)])
    slopes = [5.0 if each < 0.1 else 0.0 for each in positions]

    ends = slopes[0] * positions[0] + slopes[-1] * (1 - positions[-1])
    assert float(path.total.sum()) == pytest.approx(
        ends + float(torch.trapezoid(torch.tensor(slopes), torch.tensor(positions)))
    )


def test_where_memory_ends_the_gaps_that_matter_least_are_left(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(model, [0.125, 0.375, 0.625, 0.875])
    # Three gaps of one image, of two gradients each.
    monkeypatch.setattr(refining, "KEPT_BYTES", 3 * 2 * path.total.nbytes)
    before = path.spread

    freeze_intervals(path, 1)

    assert len(path.gaps) == 3
    assert path.spread == pytest.approx(before)
    assert any(gap.left.position < 0.1 <= gap.right.position for gap in path.gaps)
    for _ in range(5):
        doubled(model, path)
        freeze_intervals(path, 1)
    assert float(path.total.sum()) == pytest.approx(0.5, rel=0.02)
    assert len(path.gaps) == 3


def test_many_images_share_the_memory_and_each_keeps_something(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(model, [0.25, 0.75])
    monkeypatch.setattr(refining, "KEPT_BYTES", path.total.nbytes)

    freeze_intervals(path, 100)

    assert len(path.gaps) == 1
