"""Batch norm goes into the convolution before it where the logits stay as they are, and nowhere else."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from heatmill_workers.models.digest import digest
from heatmill_workers.models.proof.fusing import fuse
from tests.workers.small import architecture, loaded, photos


def fold_all(module: nn.Module, images: Tensor, cam_layer: str | None = None) -> int:
    """Fold, by what the module puts out for these images."""
    with torch.no_grad():
        wanted = module(images)
        is_same = partial(torch.allclose, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
        return fuse(module, lambda: module(images), is_same, cam_layer)


def ready(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics that are not trivial."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(part.weight, -2, 2)
            nn.init.uniform_(part.bias, -1, 1)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "norms"), [("resnet18", 20), ("mobilenet_v2", 52), ("shufflenet_v2_x0_5", 56), ("googlenet", 57)]
)
def test_every_batch_norm_behind_a_convolution_is_folded(name: str, norms: int) -> None:
    module = ready(architecture(name))
    images = photos(2)
    wanted = module(images)

    assert fold_all(module, photos(2)) == norms

    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    torch.testing.assert_close(module(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert not any(parameter.requires_grad for parameter in module.parameters())


class Block(nn.Module):
    """A convolution and its batch norm, in a classifier whose way from the one to the other is given."""

    def __init__(self, way: Callable[["Block", Tensor], Tensor], conv: nn.Conv2d | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        head: Tensor = self.head(self.way(self, images).relu().mean((2, 3)))
        return head


def straight(block: Block, images: Tensor) -> Tensor:
    out: Tensor = block.norm(block.conv(images))
    return out


def also_past_the_norm(block: Block, images: Tensor) -> Tensor:
    maps = block.conv(images)
    out: Tensor = block.norm(maps) + maps
    return out


def norm_used_twice(block: Block, images: Tensor) -> Tensor:
    out: Tensor = block.norm(block.norm(block.conv(images)))
    return out


def conv_used_twice(block: Block, images: Tensor) -> Tensor:
    out: Tensor = block.norm(block.conv(images)) + block.conv(images.flip(3))
    return out


def weight_used_elsewhere(block: Block, images: Tensor) -> Tensor:
    out: Tensor = block.norm(block.conv(images)) * block.conv.weight.mean()
    return out


def norm_asked_for_more(block: Block, images: Tensor) -> Tensor:
    out: Tensor = block.norm(block.conv(images)) * block.norm.eps
    return out


def norms_counted(block: Block, images: Tensor) -> Tensor:
    count = sum(isinstance(part, nn.BatchNorm2d) for part in block.modules())
    out: Tensor = block.norm(block.conv(images)) * (1 / count)
    return out


class Standardised(nn.Conv2d):
    """Weights that are scaled on the way: what is folded into them would be lost."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight / self.weight.norm(), self.bias)


class Padded(nn.Conv2d):
    """A subclass that changes nothing but its input, as EfficientNet-Lite's."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(images, (0, 1, 0, 1)))


class WithoutBias(nn.Conv2d):
    """A subclass that would lose a bias."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight)


def test_one_pair_is_folded() -> None:
    module = ready(Block(straight))
    wanted = module(photos(2, 32))

    assert fold_all(module, photos(2, 32)) == 1

    assert isinstance(module.norm, nn.Identity)
    torch.testing.assert_close(module(photos(2, 32)), wanted)


def test_a_subclass_that_convolves_with_its_own_weights_is_folded() -> None:
    module = ready(Block(straight, Padded(3, 6, 3, bias=False)))
    wanted = module(photos(2, 32))

    assert fold_all(module, photos(2, 32)) == 1
    torch.testing.assert_close(module(photos(2, 32)), wanted)


@pytest.mark.parametrize(
    "module",
    [
        Block(also_past_the_norm),
        Block(norm_used_twice),
        Block(conv_used_twice),
        Block(weight_used_elsewhere),
        Block(norm_asked_for_more),
        Block(norms_counted),
        Block(straight, Standardised(3, 6, 3)),
        Block(straight, WithoutBias(3, 6, 3, bias=False)),
    ],
    ids=lambda block: f"{block.way.__name__}-{type(block.conv).__name__}",
)
def test_what_is_not_exactly_a_pair_stays_as_it_is(module: Block) -> None:
    before = digest(ready(module))
    wanted = module(photos(2, 32))

    assert fold_all(module, photos(2, 32)) == 0

    assert isinstance(module.norm, nn.BatchNorm2d)
    assert digest(module) == before
    assert torch.equal(module(photos(2, 32)), wanted)


def test_a_named_layer_goes_on_putting_out_what_it_did() -> None:
    module = ready(Block(straight))

    assert fold_all(module, photos(2, 32), "conv") == 0
    assert fold_all(module, photos(2, 32), "norm") == 1


def test_a_model_is_told_by_its_weights_as_they_came_and_runs_folded() -> None:
    module = architecture("resnet18")
    as_it_came = digest(module)

    model = loaded(module)

    assert model.digest == as_it_came
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.module.modules())
    assert model.module.get_parameter("layer1.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)
