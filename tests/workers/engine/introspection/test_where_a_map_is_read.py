"""Which way round a map is read, and what speaks against reading it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import ModelUnavailable, UnsupportedOperation
from heatmill_workers.engine.introspection.locality import Reading
from heatmill_workers.engine.introspection.spatial import Search, search
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.small import LABELS, loaded, photos

SIDE = 64
GRID = (4, 4)
CHANNELS_LAST = Reading(3, 1, 2)


class Net(nn.Module):
    """Patches of 16 pixels, seeded weights; `forward` is the given function's."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor], width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.fine = nn.Conv2d(3, width, 4, 4)
        self.norm, self.layer, self.positions = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(16, 16)
        self.down, self.across = nn.Linear(4, 4), nn.Linear(4, 4)
        self.recurrent = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, len(LABELS))
        self.function = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self, images)


def found(forward: Callable[[Net, Tensor], Tensor], cam_layer: str | None = None, **options: Any) -> Search:
    module = Net(forward, **options).eval().requires_grad_(False)
    return search(module, torch.zeros(1, 3, SIDE, SIDE), cam_layer)


def pooled(net: Net, maps: Tensor) -> Tensor:
    logits: Tensor = net.head(maps.relu().mean((2, 3)))
    return logits


def channels_last(net: Net, images: Tensor) -> Tensor:
    maps = net.near(net.patches(images)).permute(0, 2, 3, 1)
    logits: Tensor = net.head((maps + net.layer(net.norm(maps)).relu()).mean((1, 2)))
    return logits


@pytest.mark.parametrize("width", [4, 12, 16])
def test_a_map_whose_channels_lie_last_is_read_the_right_way_round(width: int) -> None:
    """With as many channels as rows the shape tells nothing."""
    cut = found(channels_last, width=width).cut

    assert cut is not None
    assert (cut.shape, cut.reading) == ((width, *GRID), CHANNELS_LAST)


def test_grad_cam_of_a_map_whose_channels_lie_last_is_that_of_the_same_map_permuted() -> None:
    model, images, targets = loaded(Net(channels_last)), photos(2), torch.tensor([3, 7])
    net: Any = Net(channels_last)

    with torch.enable_grad():
        maps = net.near(net.patches(images)).permute(0, 2, 3, 1)
        last = (maps + net.layer(net.norm(maps)).relu()).permute(0, 3, 1, 2)
        logits = net.head(last.mean((2, 3)))
        (gradients,) = torch.autograd.grad(logits[[0, 1], targets].sum(), last)
    wanted = (gradients.mean((2, 3), keepdim=True) * last).sum(1, keepdim=True).relu().detach().numpy()

    for entry, each in zip(explain("grad_cam", model, images, targets, {}), wanted, strict=True):
        assert isinstance(entry, Explanation)
        np.testing.assert_allclose(entry.attribution, each, rtol=1e-4, atol=1e-6 * wanted.max())


def test_an_image_that_was_turned_inside_is_read_as_it_was() -> None:
    cut = found(lambda net, images: pooled(net, net.near(net.patches(images.transpose(2, 3))))).cut

    assert cut is not None
    assert cut.reading == Reading(1, 3, 2)


@pytest.mark.parametrize(
    "mirrored",
    [
        lambda net, maps: maps + maps.flip(-1),
        lambda net, maps: torch.maximum(maps, maps.flip(-2)),
        lambda net, maps: maps.flip(-1),
        lambda net, maps: maps.roll((2, 2), (2, 3)),
    ],
)
def test_where_positions_are_exchanged_the_map_before_is_read(mirrored: Callable[[Net, Tensor], Tensor]) -> None:
    before = found(lambda net, images: pooled(net, net.patches(images))).cut
    after = found(lambda net, images: net.head(mirrored(net, net.patches(images).relu()).mean((2, 3)))).cut

    assert before is not None
    assert after is not None
    assert (after.call, after.shape) == (before.call, before.shape)


def test_cells_that_are_exchanged_within_a_half_are_not_read() -> None:
    def exchanged(net: Net, images: Tensor) -> Tensor:
        return pooled(net, net.patches(images)[:, :, [2, 3, 0, 1, 6, 7, 4, 5]])

    cut = search(Net(exchanged).eval().requires_grad_(False), torch.zeros(1, 3, 128, 64)).cut

    assert cut is not None
    assert (cut.call, cut.shape) == (0, (12, 8, 4))


@pytest.mark.parametrize(
    "part",
    [
        lambda images: images[:, :, 32:, 32:],
        lambda images: images[..., :40],
        lambda images: functional.interpolate(images[:, :, 16:-16, 16:-16], size=(64, 64)),
        lambda images: images[..., 16:],
    ],
)
def test_a_map_of_a_part_of_the_image_is_not_drawn_over_the_whole(part: Callable[[Tensor], Tensor]) -> None:
    nothing = found(lambda net, images: pooled(net, net.near(net.patches(part(images)))))

    assert nothing.cut is None
    assert "sees nothing of" in nothing.reason or "follow the image" in nothing.reason


def test_a_border_that_is_blanked_leaves_the_cells_in_their_places() -> None:
    def blanked(net: Net, images: Tensor) -> Tensor:
        images[:, :, :20] = 0
        return pooled(net, net.near(net.patches(images)))

    cut = found(blanked).cut

    assert cut is not None
    assert cut.shape == (12, *GRID)


def normalised(images: Tensor) -> Tensor:
    return (images - 0.1) / 0.3


@pytest.mark.parametrize(
    "prepare",
    [
        normalised,
        lambda images: functional.interpolate(images, size=(48, 48), mode="bilinear"),
        lambda images: functional.pad(images.mean(1, keepdim=True).expand(-1, 3, -1, -1), (0, 0, 8, 8)),
        lambda images: images.clamp(0).pow(0.5),
    ],
)
def test_an_ensemble_that_prepares_the_image_itself_has_no_one_layer(prepare: Callable[[Tensor], Tensor]) -> None:
    def ensemble(net: Net, images: Tensor) -> Tensor:
        prepared = prepare(images)
        return pooled(net, net.patches(prepared)) + pooled(net, net.patches(prepared.flip(-1)))

    nothing = found(ensemble)

    assert nothing.cut is None
    assert "no one layer" in nothing.reason
    assert "the image itself" in nothing.reason


def filtered(net: Net, maps: Tensor) -> Any:
    last = maps.permute(0, 2, 3, 1)
    spectrum = torch.fft.rfft2(last, dim=(1, 2)) * torch.linspace(0.2, 1, 3).view(1, 1, 3, 1)
    return (last + torch.fft.irfft2(spectrum, s=GRID, dim=(1, 2))).flatten(1, 2)


def gated(net: Net, tokens: Tensor) -> Any:
    return tokens * (1 + 1e-6 * net.positions(tokens))


def crossed(net: Net, maps: Tensor) -> Any:
    return maps + net.across(maps) + net.down(maps.transpose(2, 3)).transpose(2, 3)


def linearly_attended(net: Net, tokens: Tensor) -> Tensor:
    return tokens + tokens.relu() @ (tokens.relu().transpose(1, 2) @ tokens) / 16


def convolved(net: Net, tokens: Tensor) -> Tensor:
    return tokens + functional.conv1d(tokens, net.positions.weight[..., None])


# From a map (N, width, 4, 4) to tokens (N, 16, width).
MIXERS: dict[str, Callable[[Net, Tensor], Any]] = {
    "a linear layer": lambda net, maps: (maps.flatten(2) + net.positions(maps.flatten(2))).mT,
    "a gate that is nearly open": lambda net, maps: gated(net, maps.flatten(2)).mT,
    "a product": lambda net, maps: (
        torch.einsum("ncp,qp->nqc", maps.flatten(2), net.positions.weight) + maps.flatten(2).mT
    ),
    "a convolution whose channels are the tokens": lambda net, maps: convolved(net, maps.flatten(2).mT),
    "frequencies": filtered,
    "attention without a softmax": lambda net, maps: linearly_attended(net, maps.flatten(2).mT),
    "rows and columns": lambda net, maps: crossed(net, maps).flatten(2).mT,
    "a recurrent layer": lambda net, maps: net.recurrent(maps.flatten(2).mT)[0] + maps.flatten(2).mT,
    "the mean of all tokens": lambda net, maps: (maps.flatten(2) + maps.flatten(2).mean(2, keepdim=True)).mT,
    "a layer over everything": lambda net, maps: maps.flatten(2).mT + maps.flatten(1).cumsum(1).view(len(maps), 16, -1),
}


def mixing(name: str) -> Callable[[Net, Tensor], Tensor]:
    """A model that has no map after its positions are mixed: a second way leads past it."""

    def forward(net: Net, images: Tensor) -> Tensor:
        maps = net.patches(images)
        logits: Tensor = net.head(net.layer(MIXERS[name](net, maps)).relu().mean(1)) + net.head(maps.mean((2, 3)))
        return logits

    return forward


@pytest.mark.parametrize("name", MIXERS)
def test_no_map_is_read_before_its_positions_are_mixed(name: str) -> None:
    nothing = found(mixing(name))

    assert nothing.cut is None
    assert "mixes positions" in nothing.reason


def test_weights_are_as_they_were_after_the_search() -> None:
    net = Net(mixing("a linear layer")).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}

    search(net, torch.zeros(1, 3, SIDE, SIDE))

    for name, value in net.state_dict().items():
        assert value.dtype == torch.float32
        assert value.equal(before[name])


def test_tokens_behind_a_map_whose_channels_lie_last_mix_nothing() -> None:
    def forward(net: Net, images: Tensor) -> Tensor:
        maps = net.near(net.patches(images)).permute(0, 2, 3, 1)
        logits: Tensor = net.head(maps.reshape(len(images), 16, -1).mean(1))
        return logits

    cut = found(forward).cut

    assert cut is not None
    assert cut.reading == CHANNELS_LAST


def squeezed(net: Net, maps: Tensor) -> Any:
    gates = net.layer(maps.mean((2, 3))).sigmoid()
    return maps * gates[..., None, None]


@pytest.mark.parametrize(
    "head",
    [
        lambda net, maps: net.head(squeezed(net, maps).mean((2, 3))) + net.head(maps.amax((2, 3))),
        lambda net, maps: net.head(functional.group_norm(maps, 3).relu().mean((2, 3))) + net.head(maps.amax((2, 3))),
        lambda net, maps: net.head(net.near(maps).relu().mean((2, 3))) + net.head(maps.amax((2, 3))),
        lambda net, maps: net.head(net.norm(maps.flatten(2).transpose(1, 2)).mean(1)),
        lambda net, maps: net.head((maps.flatten(2) @ maps.flatten(2).transpose(1, 2)).mean(2)),
        lambda net, maps: net.head(net.near(maps).flatten(2).std(2)) + net.head(net.near(maps.flip(-1)).mean((2, 3))),
    ],
)
def test_pooling_norms_gates_and_branches_mix_no_positions(head: Callable[[Net, Tensor], Tensor]) -> None:
    cut = found(lambda net, images: head(net, net.near(net.patches(images)).relu())).cut

    assert cut is not None
    assert cut.shape == (12, *GRID)


def pooled_by_softmax(net: Net, maps: Tensor) -> Tensor:
    weights = net.near(maps)[:, :1].flatten(2).softmax(-1)
    logits: Tensor = net.head((maps.flatten(2) * weights).sum(-1))
    return logits


def pooled_by_a_query(net: Net, maps: Tensor) -> Tensor:
    tokens = maps.flatten(2).mT[:, None]
    query = net.layer.bias.expand(len(maps), 1, 1, -1)
    logits: Tensor = net.head(functional.scaled_dot_product_attention(query, tokens, tokens)[:, 0, 0])
    return logits


@pytest.mark.parametrize("pool", [pooled_by_softmax, pooled_by_a_query])
def test_the_map_before_a_pooling_by_attention_is_read(pool: Callable[[Net, Tensor], Tensor]) -> None:
    cut = found(lambda net, images: pool(net, net.patches(images).relu())).cut

    assert cut is not None
    assert cut.shape == (12, *GRID)


def test_a_layer_that_an_operator_names_has_to_follow_the_image_too() -> None:
    def scrambled(net: Net, images: Tensor) -> Tensor:
        tokens = net.positions(net.patches(images).flatten(2)).unflatten(2, GRID)
        return pooled(net, net.near(tokens))

    with pytest.raises(ValueError, match=r"'near'.* (does not follow|hardly depends)"):
        found(scrambled, "near")
    with pytest.raises(ValueError, match=r"'patches'.* `linear` mixes positions"):
        found(scrambled, "patches")
    with pytest.raises(ModelUnavailable, match=r"`cam_layer` in models\.toml"):
        loaded(Net(scrambled), cam_layer="near")


def test_why_there_is_no_layer_is_told_with_the_error() -> None:
    (entry,) = explain("grad_cam", loaded(Net(mixing("a linear layer"))), photos(1), torch.tensor([0]), {})

    assert isinstance(entry, UnsupportedOperation)
    assert "does not have: `linear` mixes positions" in str(entry)


def in_half_precision(net: Net, images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = pooled(net, net.near(net.patches(images)))
    return logits.float()


def test_under_autocast_the_map_is_that_of_full_precision_in_float32() -> None:
    images, targets = photos(2), torch.tensor([3, 7])
    full = loaded(Net(lambda net, images: pooled(net, net.near(net.patches(images)))))

    for entry, other in zip(
        explain("grad_cam", loaded(Net(in_half_precision)), images, targets, {}),
        explain("grad_cam", full, images, targets, {}),
        strict=True,
    ):
        assert isinstance(entry, Explanation)
        assert isinstance(other, Explanation)
        assert entry.attribution.dtype == np.float32
        np.testing.assert_allclose(entry.attribution, other.attribution, atol=0.05 * other.attribution.max())


def rows_first(net: Net, images: Tensor) -> Tensor:
    maps = torch.einsum("nchw,dc->hnwd", net.patches(images), net.layer.weight).relu()
    logits: Tensor = net.head(maps.mean((0, 2)))
    return logits


def test_a_tensor_whose_first_axis_is_not_the_images_is_no_map() -> None:
    cut = found(rows_first).cut

    assert cut is not None
    assert (cut.call, cut.reading) == (0, Reading())


class Swish(torch.autograd.Function):
    """As it is written to save memory."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values * values.sigmoid()

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        part = values.sigmoid()
        found: Tensor = slopes * part * (1 + values * (1 - part))
        return found


def swish_in_torchscript(values: Tensor) -> Tensor:
    out: Tensor = values * values.sigmoid()
    return out


HIDDEN_FUNCTIONS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "an autograd.Function": lambda: Swish.apply,
    "TorchScript": lambda: torch.jit.script(swish_in_torchscript),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("hidden", HIDDEN_FUNCTIONS)
def test_a_last_activation_that_torch_does_not_show_is_read_like_its_own(hidden: str) -> None:
    images, targets = photos(3), torch.tensor([3, 7, 1])

    def maps_with(activation: Callable[[Tensor], Tensor]) -> list[Any]:
        def forward(net: Net, images: Tensor) -> Tensor:
            maps = activation(net.near(activation(net.patches(images))) * 8 - 0.5)
            logits: Tensor = net.head(maps.mean((2, 3)))
            return logits

        answers = explain("grad_cam", loaded(Net(forward)), images, targets, {})
        return [answer.attribution for answer in answers if isinstance(answer, Explanation)]

    found, right = maps_with(HIDDEN_FUNCTIONS[hidden]()), maps_with(functional.silu)

    assert len(found) == len(right) == 3
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)
