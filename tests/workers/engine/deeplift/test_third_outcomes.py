"""A model gets complete multipliers, or a refusal that names what it computes: there is nothing between."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.multipliers import multipliers
from tests.workers.engine.deeplift.modules import CONV, Body, Net
from tests.workers.engine.deeplift.test_multipliers import TARGETS, batch, error

KERNELS = nn.Linear(8, 8 * 8 * 9)
MIX = torch.linspace(-1, 1, 64).view(8, 8)


def filters_of_the_image(maps: Tensor) -> Tensor:
    """As in CondConv: each image has its own weights and biases, run as groups of one convolution."""
    means = maps.mean((2, 3))
    count, channels, height, width = maps.shape
    weight, bias = KERNELS(means).tanh().view(-1, channels, 3, 3), means.flatten()
    mixed = functional.conv2d(maps.reshape(1, -1, height, width), weight, bias, padding=1, groups=count)
    return mixed.view(count, channels, height, width)


def filters_of_the_image_over_a_constant(maps: Tensor) -> Tensor:
    weight = KERNELS(maps.mean((2, 3))).tanh().view(-1, 8, 3, 3)
    constant = MIX.view(1, 8, 8, 1).repeat(1, len(maps), 1, 8)
    return functional.conv2d(constant, weight, groups=len(maps)).view(len(maps), 8, 36)


def view_of_what_is_changed(maps: Tensor) -> Tensor:
    scaled = maps * 1.5 - 1
    view = scaled[:, :4]
    scaled.clamp_(-0.1, 0.3)
    return torch.cat([view, scaled[:, 4:]], 1)


def view_of_a_view_of_what_is_changed(maps: Tensor) -> Tensor:
    scaled = maps * 1.5 - 1
    view = scaled.flatten(2)[:, 2:]
    scaled += maps.tanh()
    view *= 2
    return view.view(len(maps), 6, 8, 8).tanh().mean(1, keepdim=True) + scaled


def same_tensor_by_another_name(maps: Tensor) -> Tensor:
    scaled = 2 * maps
    for other in (scaled.contiguous(), scaled.detach(), functional.dropout(scaled, training=False)):
        other.tanh_()
    return scaled


def inverse_of_what_is_changed(maps: Tensor) -> Tensor:
    positive = maps.sigmoid() + 1
    inverse = positive.reciprocal()
    positive *= 3
    return maps * inverse


def inverse_that_is_changed_through_a_view(maps: Tensor) -> Tensor:
    inverse = torch.rsqrt(maps.square() + 1)
    inverse[:, :4].mul_(3)
    return maps * inverse


def pooled_in_place(maps: Tensor) -> Tensor:
    pooled = functional.max_pool2d(maps, 2)
    pooled += functional.avg_pool2d(maps, 2)
    return pooled.relu_()


def turned_in_place(maps: Tensor) -> Tensor:
    scaled = maps * 2
    view = scaled[:, :4]
    scaled.transpose_(2, 3)
    scaled.tanh_()
    return torch.cat([view.relu(), scaled[:, 4:]], 1)


def without_gradients(maps: Tensor) -> Tensor:
    with torch.no_grad():
        bent = maps.tanh()
    return bent + maps


def constants_made_alike(maps: Tensor) -> Tensor:
    return maps.tanh() + MIX.to(maps).view(1, 8, 8, 1).expand_as(maps)


def scaled_product(maps: Tensor) -> Tensor:
    means = maps.mean((2, 3))
    return torch.addmm(means, means, MIX, beta=0.5, alpha=2.0).unsqueeze(2)


COMPLETE: dict[str, Body] = {
    "convolution with filters of the image": filters_of_the_image,
    "convolution of a constant": filters_of_the_image_over_a_constant,
    "a view of what is changed in place": view_of_what_is_changed,
    "a view of a view of what is changed in place": view_of_a_view_of_what_is_changed,
    "one tensor by several names": same_tensor_by_another_name,
    "an inverse of what is changed in place": inverse_of_what_is_changed,
    "an inverse changed through a view": inverse_that_is_changed_through_a_view,
    "a max pool changed in place": pooled_in_place,
    "a tensor turned in place": turned_in_place,
    "under no_grad": without_gradients,
    "a constant in the form of the image": constants_made_alike,
    "addmm with scales": scaled_product,
    "a bound of the image": lambda maps: torch.clamp(maps, max=maps.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("baseline", ["noise", "constant"])
def test_multipliers_are_complete(name: str, baseline: str) -> None:
    baselines = batch(1, 0.5) if baseline == "noise" else torch.zeros_like(batch(0))

    assert error(Net(COMPLETE[name], KERNELS, CONV), batch(0), baselines) < 1e-3


@pytest.mark.parametrize("root", [torch.sqrt, lambda maps: maps.pow(0.5)])
def test_a_root_of_zero_on_both_sides_has_no_part_in_it(root: Body) -> None:
    module = Net(lambda maps: root(maps.relu()))

    found, _ = multipliers(module, batch(0), batch(1), TARGETS)

    assert found.isfinite().all()
    assert error(module, batch(0), batch(1)) < 1e-3


def into_zeros(maps: Tensor) -> Tensor:
    constant = torch.zeros(maps.shape)
    constant += maps
    return constant


def with_constants_multiplied(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape).mul_(maps)


def given_a_tensor_to_write_to(maps: Tensor) -> Tensor:
    return torch.tanh(maps, out=torch.empty(maps.shape))


def a_chunk_changed(maps: Tensor) -> Tensor:
    first, second = (maps * 2).chunk(2, 1)
    return torch.cat([first.relu_(), second], 1)


def what_a_convolution_needs_changed(maps: Tensor) -> Tensor:
    rows = maps.tanh().flatten(2)
    normalised = functional.layer_norm(rows, (64,))
    rows[:, :4] += normalised[:, 4:]
    return rows + normalised


def in_inference_mode(maps: Tensor) -> Tensor:
    with torch.inference_mode():
        bent = maps.tanh()
    return bent + maps


REFUSED: dict[str, tuple[Body, str]] = {
    "grid of the image": (
        lambda maps: functional.grid_sample(maps, maps[:, :2].tanh().permute(0, 2, 3, 1), align_corners=False),
        "grid_sample",
    ),
    "slope of the image": (lambda maps: functional.prelu(maps, maps.mean((0, 2, 3))), "prelu"),
    "fill value of the image": (lambda maps: maps.masked_fill(MIX > 0, maps.mean()), "masked_fill"),
    "added to zeros": (into_zeros, "`add` in place"),
    "constants multiplied": (with_constants_multiplied, "mul"),
    "out": (given_a_tensor_to_write_to, "tanh"),
    "rounded to integers and back": (lambda maps: maps + (3 * maps).to(torch.int64).float(), "to"),
    "a chunk changed in place": (a_chunk_changed, "relu"),
    "rows changed after their norm": (what_a_convolution_needs_changed, "in place"),
    "inference mode": (in_inference_mode, "`tanh` under torch.inference_mode"),
    "an option that no rule knows": (lambda maps: torch.rms_norm(input=maps, normalized_shape=(8,)), "rms_norm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name: str) -> None:
    body, operation = REFUSED[name]

    with pytest.raises(UnsupportedOperation, match=operation):
        multipliers(Net(body), batch(0), batch(1), TARGETS)


def test_a_device_without_memory_is_no_refusal() -> None:
    def too_large(maps: Tensor) -> Tensor:
        return maps.flatten(1).repeat(1, 2**40)

    with pytest.raises(RuntimeError, match="allocate memory"):
        multipliers(Net(too_large), batch(0), batch(1), TARGETS)


class Gate(nn.Module):
    """A part that becomes TorchScript."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * maps.sigmoid()

    @torch.jit.export
    def twice(self, maps: Tensor) -> Tensor:
        return maps * 2


def squashed(maps: Tensor) -> Tensor:
    return maps * torch.tanh(functional.softplus(maps))


def only_plain_tensors(maps: Tensor) -> Tensor:
    if type(maps) is not Tensor:
        raise KeyError(type(maps))
    return maps


def traced(body: Any) -> Any:
    return torch.jit.trace(body, torch.randn(2, 8, 8, 8))  # type: ignore[no-untyped-call]


COMPILED: dict[str, Callable[[], Any]] = {
    "a traced part": lambda: traced(Gate()),
    "a scripted part": lambda: torch.jit.script(Gate()),
    "a method of a scripted part": lambda: torch.jit.script(Gate()).twice,
    "a scripted function": lambda: torch.jit.script(squashed),
    "a traced function": lambda: traced(squashed),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_part_of_a_model_is_refused_in_words(name: str) -> None:
    with pytest.raises(UnsupportedOperation, match="compiled by TorchScript, which DeepLIFT cannot follow"):
        multipliers(Net(COMPILED[name]()), batch(0), batch(1), TARGETS)


def test_whatever_else_a_model_raises_on_pairs_is_a_refusal() -> None:
    with pytest.raises(UnsupportedOperation, match="KeyError"):
        multipliers(Net(only_plain_tensors), batch(0), batch(1), TARGETS)


def test_an_end_of_memory_is_no_refusal() -> None:
    def too_large(maps: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        multipliers(Net(too_large), batch(0), batch(1), TARGETS)
