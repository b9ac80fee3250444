"""When two runs of a model count as the same."""

import pytest
import torch
from torch import Tensor

from heatmill_workers.models.proof.comparison import FLOAT32, Reference

OUTPUTS = torch.tensor([[1.0, 2, 3], [2, 4, 1], [0, 1, 5], [3, 3, 3], [1, 0, 2]])


def masked(outputs: Tensor, row: int, column: int, value: float) -> Tensor:
    changed = outputs.clone()
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(("size", "is_same"), [(1e-40, True), (1e-33, True), (1e-20, False), (1, False)])
def test_only_numbers_that_float32_hardly_holds_may_change_by_a_share_of_their_spread(
    size: float, is_same: bool
) -> None:
    assert Reference(OUTPUTS * size, FLOAT32).is_met(OUTPUTS.roll(1, 0) * size) == is_same


def test_a_class_that_is_ruled_out_must_be_so_again_and_the_others_are_compared() -> None:
    outputs = masked(OUTPUTS, 0, 1, -torch.inf)
    reference = Reference(outputs, FLOAT32)

    assert reference.is_met(outputs.clone())
    assert reference.is_met(outputs[[2, 0]], (2, 0))
    assert not reference.is_met(OUTPUTS)
    assert not reference.is_met(masked(outputs, 0, 2, 3.5))
    assert "%" in reference.change(masked(outputs, 0, 2, 3.5))
    assert reference.change(OUTPUTS) == "more than can be said"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_usable_must_not_be_so_in_another_run(value: float) -> None:
    outputs = masked(OUTPUTS, 0, 1, value)

    assert Reference(outputs, FLOAT32).is_met(masked(outputs, 0, 0, 7))
    assert not Reference(outputs, FLOAT32).is_met(OUTPUTS)
