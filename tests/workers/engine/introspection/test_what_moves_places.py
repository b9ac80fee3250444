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
        (lambda images: torch.rot90(images, 1, (2, 3)), "turns, divides, reshapes or reorders"),
        (lambda images: images.permute(0, 2, 3, 1).reshape(images.shape), "does not follow the image"),
        (lambda images: images.reshape(-1, 12, 32, 32)[:, :3], "turns, divides, reshapes or reorders"),
        (turned_by_a_grid, "grid_sample"),
        (quarters_exchanged, "turns, divides, reshapes or reorders"),
        (lambda images: functional.pad(images, (16, 16, 16, 16)), "32 rows and 32 columns around the image"),
        (lambda images: functional.pad(images, (0, 0, 0, 64)), "follow the image"),
        (lambda images: functional.pad(images, (16, 16, 16, 16), mode="reflect"), "around the image"),
        (lambda images: functional.conv2d(images, torch.ones(3, 3, 3, 3), padding=17), "32 rows and 32 columns around"),
        (
            lambda images: functional.conv2d(images, torch.ones(3, 3, 1, 1), padding=(0, 9)),
            "18 columns around the image",
        ),
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
        lambda images: functional.conv2d(images, torch.ones(3, 3, 5, 5), padding=4, dilation=2),
        lambda images: functional.conv2d(images, torch.ones(3, 3, 2, 2), padding=1),
    ],
)
def test_what_leaves_the_pixels_in_their_places_keeps_the_layer(kept: Callable[[Tensor], Tensor]) -> None:
    assert found(lambda net, images: pooled(net, net.near(net.patches(kept(images))))).cut is not None


def halves(images: Tensor) -> list[Tensor]:
    """Left and right."""
    return list(images.chunk(2, 3))


def quarters(images: Tensor) -> list[Tensor]:
    """Of the image, by slices."""
    middle = images.shape[2] // 2
    return [images[:, :, down, across] for down in _sides(middle) for across in _sides(middle)]


def crops(images: Tensor) -> list[Tensor]:
    """The corners and the centre."""
    quarter = images.shape[2] // 4
    return [*quarters(images), images[:, :, quarter : 3 * quarter, quarter : 3 * quarter]]


def whole_and_centre(images: Tensor) -> list[Tensor]:
    """At two scales."""
    quarter = images.shape[2] // 4
    return [functional.avg_pool2d(images, 2), images[:, :, quarter : 3 * quarter, quarter : 3 * quarter]]


def _sides(middle: int) -> list[slice]:
    return [slice(0, middle), slice(middle, None)]


def by_channel(net: Net, parts: list[Tensor]) -> Tensor:
    """The parts' maps behind one another."""
    maps = torch.cat([net.near(part).relu() for part in parts], 1)
    logits: Tensor = net.head(maps.mean((2, 3)).view(len(maps), len(parts), -1).sum(1))
    return logits


def laid_over(net: Net, parts: list[Tensor]) -> Tensor:
    """The mean of the parts' maps."""
    return pooled(net, torch.stack([net.near(part).relu() for part in parts]).mean(0))


@pytest.mark.parametrize("joined", [by_channel, laid_over])
@pytest.mark.parametrize("parts", [halves, quarters, crops, whole_and_centre])
def test_parts_of_the_image_that_are_not_put_back_are_no_map_of_it(
    parts: Callable[[Tensor], list[Tensor]], joined: Callable[[Net, list[Tensor]], Tensor]
) -> None:
    """Halves behind one another look like columns: what is left in one is left in the other."""

    def of_image(net: Net, images: Tensor) -> Tensor:
        return joined(net, [net.fine(part) for part in parts(images)])

    def of_map(net: Net, images: Tensor) -> Tensor:
        return joined(net, parts(net.fine(images)))

    assert found(of_image).cut is None
    before = found(of_map).cut
    assert before is not None, "before it is divided the map is one of the image"
    assert before.shape == (12, 16, 16)


@pytest.mark.parametrize(
    "kept",
    [
        lambda net, images: net.near(torch.cat([net.fine(part) for part in halves(images)], 3)),
        lambda net, images: net.near(
            torch.stack([net.fine(images)[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]).mean(0)
        ),
    ],
)
def test_parts_that_are_put_back_are(kept: Callable[[Net, Tensor], Tensor]) -> None:
    assert found(lambda net, images: pooled(net, kept(net, images))).cut is not None


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
