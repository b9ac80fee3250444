"""Small games, played to the end, have the values that their definition gives."""

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatmill_workers.engine.perturbation.owen import Box, BoxNode, Shown, halves, masks, owen_values

Play = Callable[[NDArray[np.bool_]], float]
WEIGHTS = np.random.default_rng(0).normal(size=16)


def product_of_pairs(shown: NDArray[np.bool_]) -> float:
    """Additive but for one pair of pixels in corners that face each other, and one threshold."""
    flat = shown.ravel()
    return float(WEIGHTS[: flat.size] @ flat + 2 * flat[0] * flat[-1] - 3 * (flat.sum() > 2))


def additive(shown: NDArray[np.bool_]) -> float:
    return float(WEIGHTS[: shown.size] @ shown.ravel())


def played(play: Play, height: int, width: int, evaluations: int = 10_000) -> tuple[NDArray[np.float64], int]:
    """Values of the pixels, and how many masks were looked at."""
    game, asked, total = owen_values((0, height, 0, width), evaluations), 0, np.zeros((height, width))
    wanted = next(game)
    while True:
        asked += len(wanted)
        shown = masks(wanted, height, width, torch.device("cpu")).numpy()[:, 0]
        try:
            wanted = game.send([play(each) for each in shown])
        except StopIteration as end:
            spread(end.value, total)
            return total, asked


def spread(nodes: Sequence[BoxNode], total: NDArray[np.float64]) -> None:
    for node in nodes:
        top, bottom, left, right = node.box
        total[top:bottom, left:right] += node.share / ((bottom - top) * (right - left))


def orders(box: Box) -> list[tuple[Box, ...]]:
    """Every order of pixels in which each box of the hierarchy comes without a break."""
    parts = halves(box)
    if not parts:
        return [(box,)]
    first, second = (orders(part) for part in parts)
    return [joined for one in first for other in second for joined in ((*one, *other), (*other, *one))]


def mean_over(all_orders: Sequence[tuple[Box, ...]], play: Play, height: int, width: int) -> NDArray[np.float64]:
    """Mean of what each pixel adds when it appears: the definition of Shapley's and of Owen's value."""
    total = np.zeros((height, width))
    for order in all_orders:
        shown = np.zeros((height, width), bool)
        for top, _, left, _ in order:
            before = play(shown)
            shown[top, left] = True
            total[top, left] += play(shown) - before
    return total / len(all_orders)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 1), (1, 3), (2, 4), (3, 2)])
def test_it_is_the_mean_over_the_orders_that_keep_boxes_together(height: int, width: int) -> None:
    wanted = mean_over(orders((0, height, 0, width)), product_of_pairs, height, width)

    np.testing.assert_allclose(played(product_of_pairs, height, width)[0], wanted, atol=1e-12)


@pytest.mark.parametrize(("play", "height", "width"), [(product_of_pairs, 1, 2), (additive, 2, 2), (additive, 4, 1)])
def test_it_is_shapleys_value_where_the_hierarchy_does_not_matter(play: Play, height: int, width: int) -> None:
    pixels = [(row, row + 1, column, column + 1) for row in range(height) for column in range(width)]
    wanted = mean_over(list(permutations(pixels)), play, height, width)

    np.testing.assert_allclose(played(play, height, width)[0], wanted, atol=1e-12)


@pytest.mark.parametrize("evaluations", [4, 5, 11, 12, 30])
def test_the_values_are_complete_and_the_evaluations_kept_however_early_it_ends(evaluations: int) -> None:
    values, asked = played(product_of_pairs, 4, 4, evaluations)

    ends = product_of_pairs(np.ones((4, 4), bool)) - product_of_pairs(np.zeros((4, 4), bool))
    assert values.sum() == pytest.approx(ends)
    assert asked in {evaluations, evaluations + 1}


def test_one_pixel_has_the_whole_value() -> None:
    assert played(additive, 1, 1)[0][0, 0] == pytest.approx(WEIGHTS[0])


def test_masks_show_the_boxes_and_nothing_else() -> None:
    shown: list[Shown] = [(), ((0, 1, 0, 2), (1, 3, 1, 2)), ((0, 3, 0, 2),)]

    painted = masks(shown, 3, 2, torch.device("cpu"))[:, 0].int()

    assert painted.tolist() == [[[0, 0]] * 3, [[1, 1], [0, 1], [0, 1]], [[1, 1]] * 3]
