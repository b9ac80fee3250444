"""The last spatial map: found on every kind of architecture, right when it is used, refused where there is none."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.replaced import logits_from_layer
from heatmill_workers.engine.introspection.spatial import CamLayer, find_cam_layer, search
from heatmill_workers.models.loaders.torchvision import architecture as torchvision_architecture
from tests.workers import small
from tests.workers.small import photos

# Architecture, input side, and the (C, h, w) before the head.
LAST_MAPS = {
    "resnet18": (64, (512, 2, 2)),
    "vgg11": (64, (512, 7, 7)),
    "alexnet": (127, (256, 6, 6)),
    "densenet121": (64, (1024, 2, 2)),
    "mobilenet_v2": (64, (1280, 2, 2)),
    "mobilenet_v3_small": (64, (576, 2, 2)),
    "efficientnet_b0": (64, (1280, 2, 2)),
    "convnext_tiny": (64, (768, 2, 2)),
    "squeezenet1_1": (64, (10, 3, 3)),
    "shufflenet_v2_x0_5": (64, (1024, 2, 2)),
    "regnet_x_400mf": (64, (400, 2, 2)),
    "swin_t": (64, (768, 2, 2)),
    "swin_v2_t": (64, (768, 2, 2)),
    "googlenet": (64, (1024, 2, 2)),
    "inception_v3": (107, (2048, 2, 2)),
}


def frozen(name: str, side: int) -> nn.Module:
    return small.architecture(name, side).eval().requires_grad_(False)


@pytest.mark.parametrize("name", sorted(LAST_MAPS))
def test_the_last_map_is_found_and_reached(name: str) -> None:
    side, shape = LAST_MAPS[name]
    module = frozen(name, side)
    images = photos(2, side)

    cut = find_cam_layer(module, images[:1])

    assert cut is not None
    assert cut.shape == shape
    with torch.enable_grad():
        logits, leaf = logits_from_layer(module, images, cut)
    assert leaf.shape == (2, *shape)
    torch.testing.assert_close(logits, module(images), rtol=1e-4, atol=1e-5)
    (gradients,) = torch.autograd.grad(logits[:, 3].sum(), leaf)
    assert gradients.abs().sum() > 0


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32"])
def test_a_vit_has_no_spatial_layer(name: str) -> None:
    with torch.device("meta"):
        module = torchvision_architecture(name, 10, 64).eval().requires_grad_(False)

    assert find_cam_layer(module, torch.empty(1, 3, 64, 64, device="meta")) is None


class Attends(nn.Module):
    """A convolution, then attention written out; its (N, heads, T, T) tensors look like maps and are none."""

    def __init__(self, attend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.attend = attend
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        heads = tokens.unflatten(2, (2, 4)).transpose(1, 2)
        mixed = self.attend(heads).transpose(1, 2).flatten(2)
        head: Tensor = self.head((tokens + mixed).mean(1))
        return head


def eager(heads: Tensor) -> Tensor:
    return (heads @ heads.transpose(2, 3)).softmax(-1) @ heads


def functional_softmax(heads: Tensor) -> Tensor:
    return functional.softmax(heads @ heads.transpose(2, 3), dim=-1) @ heads


def fused(heads: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(heads, heads, heads)


@pytest.mark.parametrize("attend", [eager, functional_softmax, fused])
def test_attention_however_it_is_written_leaves_no_spatial_layer(attend: Callable[[Tensor], Tensor]) -> None:
    assert find_cam_layer(Attends(attend).eval().requires_grad_(False), photos(1)) is None


class Bypass(nn.Module):
    """The last map is one of two branches; the one before the fork is what everything goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.branch = nn.Conv2d(4, 6, 3, 2)
        self.head = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        head: Tensor = self.head(torch.cat([stem.mean((2, 3)), self.branch(stem).mean((2, 3))], 1))
        return head


def test_a_branch_is_no_cut() -> None:
    cut = find_cam_layer(Bypass().eval().requires_grad_(False), photos(1))

    assert cut == CamLayer(0, (4, 31, 31))


def test_an_operator_may_name_a_branch() -> None:
    module = Bypass().eval().requires_grad_(False)

    assert find_cam_layer(module, photos(1), "branch") == CamLayer(1, (6, 15, 15))
    assert not module.branch._forward_hooks


def test_a_named_module_of_a_resnet_is_the_map_it_puts_out() -> None:
    module = frozen("resnet18", 64)
    images = photos(2)

    cut = find_cam_layer(module, images[:1], "layer3")

    assert cut is not None
    with torch.enable_grad():
        _, leaf = logits_from_layer(module, images, cut)
    kept: list[Tensor] = []
    handle = module.get_submodule("layer3").register_forward_hook(lambda _module, _inputs, out: kept.append(out))
    module(images)
    handle.remove()
    torch.testing.assert_close(leaf.detach(), kept[0])


@pytest.mark.parametrize(("name", "message"), [("layer9", "no module"), ("fc", "puts out no map")])
def test_a_name_that_is_no_map_is_refused_and_no_hook_stays(name: str, message: str) -> None:
    module = frozen("resnet18", 64)

    with pytest.raises(ValueError, match=message):
        find_cam_layer(module, photos(1), name)

    assert not any(each._forward_hooks for each in module.modules())


class Ignores(nn.Module):
    """Uses the tensor that it changed in place, and not what the call returned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps.relu_()
        head: Tensor = self.head(maps.mean((2, 3)))
        return head


def test_a_call_whose_return_value_is_ignored_is_passed_over() -> None:
    assert find_cam_layer(Ignores().eval().requires_grad_(False), photos(1)) == CamLayer(0, (4, 62, 62))


def test_a_model_that_computes_differently_than_when_it_was_probed_is_an_error() -> None:
    module = frozen("resnet18", 64)
    cut = find_cam_layer(module, photos(1))
    assert cut is not None

    with torch.enable_grad(), pytest.raises(UnsupportedOperation):
        logits_from_layer(module, photos(1), replace(cut, alike=cut.alike + 1))


def test_the_trunk_keeps_no_graph() -> None:
    module = frozen("resnet18", 64)
    cut = find_cam_layer(module, photos(1))
    assert cut is not None

    with torch.enable_grad():
        logits, leaf = logits_from_layer(module, photos(2), cut)

    waiting, leaves = [logits.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node.name() == "torch::autograd::AccumulateGrad":
            leaves.add(id(getattr(node, "variable", None)))
        waiting += [below for below, _ in node.next_functions] if node is not None else []
    assert leaves == {id(leaf)}


class Counts(nn.Module):
    """Calls more before its layers, or fewer, by what it is given."""

    def __init__(self, prepare: Callable[["Counts", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prepare = prepare
        self.size = 0
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.Tanh())
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.prepare(self, images)).mean((2, 3)))
        return logits


def made_contiguous(_net: Counts, images: Tensor) -> Tensor:
    return images if images.is_contiguous() else images.contiguous()


def made_anew_for_another_batch(net: Counts, images: Tensor) -> Tensor:
    if net.size != len(images):
        net.size = len(images)
        images = torch.cat([images, torch.zeros_like(images)], 1)[:, :3]
    return images


@pytest.mark.parametrize("prepare", [made_contiguous, made_anew_for_another_batch])
def test_the_same_layer_is_read_however_many_calls_come_before_it(
    prepare: Callable[[Counts, Tensor], Tensor],
) -> None:
    module = Counts(prepare).eval().requires_grad_(False)
    cut = find_cam_layer(module, photos(1))
    assert cut is not None
    kept: list[Tensor] = []
    module.layers[-1].register_forward_hook(lambda _module, _inputs, out: kept.append(out))

    for images in (photos(1), photos(3), photos(3), photos(3).contiguous(memory_format=torch.channels_last)):
        with torch.enable_grad():
            _, leaf = logits_from_layer(module, images, cut)
        torch.testing.assert_close(leaf.detach(), kept[-1].detach())


class Splits(nn.Module):
    """Runs its net on two images at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Counts(made_contiguous)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.net(each) for each in torch.split(images, 2)])


def test_a_model_that_splits_its_batch_has_no_layer() -> None:
    assert find_cam_layer(Splits().eval().requires_grad_(False), photos(1)) is None


@pytest.mark.parametrize(
    "beside",
    [
        lambda images: torch.from_numpy(images.detach().numpy().mean((2, 3))),
        lambda images: images.detach().amax((2, 3)),
        lambda images: images.data.square().mean((2, 3)),
    ],
)
def test_a_map_that_detached_evidence_passes_by_is_no_cut(beside: Callable[[Tensor], Tensor]) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.maps, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(11, 4)

        def forward(self, images: Tensor) -> Tensor:
            found = self.maps(images).relu().mean((2, 3))
            logits: Tensor = self.head(torch.cat([found, beside(images)], 1))
            return logits

    found = search(Beside().eval().requires_grad_(False), torch.zeros(1, 3, 32, 32))

    assert found.cut is None
    assert "beside its last map" in found.reason
