"""What a model does to the image before its layers see it, and to vectors after them, moves the places of a map."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.workers.engine.introspection.test_where_a_map_is_read import GRID, Net, found, pooled


def quarters_exchanged(images: Tensor) -> Tensor:
    first, second, third, fourth = images.chunk(4, 3)
    return torch.cat([second, first, fourth, third], 3)


def turned_by_a_grid(images: Tensor) -> Tensor:
    grid = functional.affine_grid(
        torch.tensor([[0.0, 1, 0], [-1, 0, 0]]).expand(len(images), 2, 3), list(images.shape), False
    )
    return functional.grid_sample(images, grid, align_corners=False)


@pytest.mark.parametrize(
    ("moved", "reason"),
    [
        (lambda images: torch.rot90(images, 1, (2, 3)), "turns, reshapes or reorders"),
        (lambda images: images.permute(0, 2, 3, 1).reshape(images.shape), "does not follow the image"),
        (lambda images: images.reshape(-1, 12, 32, 32)[:, :3], "turns, reshapes or reorders"),
        (turned_by_a_grid, "grid_sample"),
        (quarters_exchanged, "turns, reshapes or reorders"),
        (lambda images: functional.pad(images, (16, 16, 16, 16)), "32 rows and 32 columns around the image"),
        (lambda images: functional.pad(images, (0, 0, 0, 64)), "follow the image"),
        (lambda images: functional.pad(images, (16, 16, 16, 16), mode="reflect"), "around the image"),
    ],
)
def test_a_map_of_an_image_that_the_model_moves_is_not_drawn(moved: Callable[[Tensor], Tensor], reason: str) -> None:
    nothing = found(lambda net, images: pooled(net, net.near(net.patches(moved(images)))))

    assert nothing.cut is None
    assert reason in nothing.reason


@pytest.mark.parametrize(
    "kept",
    [
        lambda images: images.flip(1),
        lambda images: images[:, [2, 1, 0]],
        lambda images: images.permute(0, 2, 3, 1).flip(-1).permute(0, 3, 1, 2),
        lambda images: functional.pad(images, (0, 1, 0, 1)),
        lambda images: functional.interpolate(images, size=(96, 96)),
    ],
)
def test_what_leaves_the_pixels_in_their_places_keeps_the_layer(kept: Callable[[Tensor], Tensor]) -> None:
    assert found(lambda net, images: pooled(net, net.near(net.patches(kept(images))))).cut is not None


@pytest.mark.parametrize(
    "positions",
    [
        lambda net, vector: vector.view(-1, 3, 2, 2),
        lambda net, vector: vector.view(-1, 4, 3, 1),
        lambda net, vector: functional.interpolate(vector[..., None, None], (7, 7)),
        lambda net, vector: net.near(vector[..., None, None].expand(-1, -1, 6, 6)),
        lambda net, vector: functional.conv_transpose2d(vector.view(-1, 3, 2, 2), net.near.weight[:3], stride=4),
    ],
)
def test_positions_that_are_made_from_a_vector_are_no_places(positions: Callable[[Net, Tensor], Tensor]) -> None:
    def decoded(net: Net, images: Tensor) -> Tensor:
        vector = net.layer(net.near(net.patches(images)).mean((2, 3)))
        logits: Tensor = net.head(functional.pad(positions(net, vector).flatten(2).mean(2), (0, 12))[:, :12])
        return logits

    cut = found(decoded).cut

    assert cut is not None
    assert (cut.call, cut.shape) == (1, (12, *GRID))
