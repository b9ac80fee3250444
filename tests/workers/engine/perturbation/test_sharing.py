"""Rows that show the same image are found."""

import torch

from heatmill_workers.engine.perturbation.sharing import group_ids, group_starts
from tests.workers.small import photos


def test_neighbours_that_are_equal_have_one_owner() -> None:
    images = photos(3, side=4)[[0, 0, 0, 1, 2, 2]]

    owner = group_ids(images)

    assert owner.tolist() == [0, 0, 0, 1, 2, 2]
    assert group_starts(owner).tolist() == [0, 3, 4]


def test_one_different_value_is_another_image() -> None:
    images = photos(1, side=4).repeat(2, 1, 1, 1)
    images[1, 2, 3, 3] += 1e-6

    assert group_ids(images).tolist() == [0, 1]


def test_one_row_is_one_image() -> None:
    assert group_ids(photos(1, side=4)).tolist() == [0]
    assert torch.equal(group_starts(torch.tensor([0])), torch.tensor([0]))
