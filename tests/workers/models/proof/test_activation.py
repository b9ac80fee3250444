"""What a model ends in, however that is written, and what goes into it."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill_workers.models.proof.activation import FinalActivation, see_ending
from tests.workers.small import architecture

Ending = Callable[["Net", Tensor], Tensor]
IMAGES = torch.cat(
    [torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 3, 12, 12)],
)


class Net(nn.Module):
    """A convolution, the mean over positions, and two linear layers that an ending may use.

    Args:
        is_normalised: A layer norm keeps the logits small, however large the images are.
    """

    def __init__(self, ending: Ending, outputs: int = 4, *, is_normalised: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.trunk, self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, outputs), nn.Linear(8, outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.norm = nn.LayerNorm(8) if is_normalised else nn.Identity()
        self.ending = ending

    def forward(self, images: Tensor) -> Tensor:
        return self.ending(self, self.norm(self.trunk(images).relu().mean((2, 3))))


def of_logits(function: Callable[[Tensor], Tensor]) -> Ending:
    return lambda net, features: function(net.first(features))


def traced(net: Net) -> nn.Module:
    with warnings.catch_warnings():
        # torch says that one should export instead; such files are there all the same.
        warnings.simplefilter("ignore")
        return cast(nn.Module, torch.jit.trace(net, IMAGES, check_trace=False))  # type: ignore[no-untyped-call]


def exported(net: Net) -> nn.Module:
    shapes = ({0: torch.export.Dim("images", min=1, max=100)},)
    return cast(nn.Module, torch.export.export(net, (IMAGES,), dynamic_shapes=shapes).module())


def as_it_is(net: Net) -> nn.Module:
    return net


FORMS: list[Callable[[Any], nn.Module]] = [as_it_is, traced, exported]

SOFTMAX: dict[str, Callable[[Tensor], Tensor]] = {
    "function": lambda z: functional.softmax(z, 1),
    "by hand": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "from the largest": lambda z: (z - z.amax(1, True)).exp() / (z - z.amax(1, True)).exp().sum(1, keepdim=True),
    "by logsumexp": lambda z: (z - z.logsumexp(1, keepdim=True)).exp(),
    "exp of log_softmax": lambda z: z.log_softmax(1).exp(),
    "over channels": lambda z: z[:, :, None, None].softmax(1).flatten(1),
    "clamped": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7),
    "in double precision": lambda z: z.double().softmax(1).float(),
    "in half precision": lambda z: z.bfloat16().softmax(1).float(),
    "rounded to half precision": lambda z: z.softmax(1).half().float(),
    "rounded to 8 bits": lambda z: z.softmax(1).bfloat16().float(),
}
SIGMOID: dict[str, Callable[[Tensor], Tensor]] = {
    "function": torch.sigmoid,
    "special": torch.special.expit,
    "by hand": lambda z: 1 / (1 + torch.exp(-z)),
    "by tanh": lambda z: 0.5 * (1 + torch.tanh(z / 2)),
    "in place": lambda z: z.sigmoid_(),
    "exp of logsigmoid": lambda z: functional.logsigmoid(z).exp(),
}


def final_activation(module: nn.Module, images: Tensor) -> FinalActivation | None:
    return see_ending(module, images).final


def assert_reads_logits(module: nn.Module, found: FinalActivation, logits: Tensor) -> None:
    assert found.read is not None
    outputs, values = found.read(module, IMAGES[:1])
    torch.testing.assert_close(found.before(values, outputs), logits[:1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize(
    ("name", "function"),
    [*(("softmax", function) for function in SOFTMAX.values()), *(("sigmoid", each) for each in SIGMOID.values())],
    ids=[*(f"softmax {name}" for name in SOFTMAX), *(f"sigmoid {name}" for name in SIGMOID)],
)
def test_an_activation_is_found_however_it_is_written(
    name: str, function: Callable[[Tensor], Tensor], is_normalised: bool
) -> None:
    net = Net(of_logits(function), is_normalised=is_normalised)

    with torch.no_grad():
        found = final_activation(net, IMAGES)

        assert found is not None
        assert found.name == name
        assert_reads_logits(net, found, Net(of_logits(torch.clone), is_normalised=is_normalised)(IMAGES))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("softmax", SOFTMAX["function"]),
        ("softmax", SOFTMAX["by hand"]),
        ("sigmoid", SIGMOID["by hand"]),
        ("log_softmax", lambda z: z.log_softmax(1)),
        ("log_softmax", lambda z: (z.softmax(1) + 1e-8).log()),
        ("log_sigmoid", functional.logsigmoid),
        ("softmax", lambda z: z.softmax(1).bfloat16().float()),
        ("log_softmax", lambda z: z.log_softmax(1).half().float()),
    ],
)
def test_compiled_files_show_theirs_too(
    form: Callable[[Any], nn.Module], name: str, function: Callable[[Tensor], Tensor]
) -> None:
    with torch.no_grad():
        module = form(Net(of_logits(function)))
        found = final_activation(module, IMAGES)

        assert found is not None
        assert found.name == name
        assert_reads_logits(module, found, Net(of_logits(torch.clone))(IMAGES))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("sides", "function"),
    [
        ((-1, 1), lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], 1)),
        ((1, -1), lambda z: torch.stack([z[:, 0].sigmoid(), 1 - z[:, 0].sigmoid()], 1)),
    ],
)
def test_two_probabilities_of_one_logit_are_found(
    form: Callable[[Any], nn.Module], sides: tuple[int, int], function: Callable[[Tensor], Tensor]
) -> None:
    with torch.no_grad():
        module = form(Net(of_logits(function), 1))
        found = final_activation(module, IMAGES)

        assert found is not None
        assert (found.name, found.sides) == ("sigmoid", sides)
        logit = Net(of_logits(torch.clone), 1)(IMAGES)
        assert_reads_logits(module, found, torch.cat([logit * side for side in sides], 1))


def both(function: Callable[[Tensor, Tensor], Tensor]) -> Ending:
    return lambda net, features: function(net.first(features), net.second(features))


PROBABILITIES: dict[str, tuple[str, Ending]] = {
    "mean of softmaxes": ("softmax", both(lambda a, b: (a.softmax(1) + b.softmax(1)) / 2)),
    "in another order": ("softmax", of_logits(lambda z: z.softmax(1).flip(1))),
    "mean of softmaxes, rounded": (
        "softmax",
        both(lambda a, b: ((a.softmax(1) + b.softmax(1)) / 2).bfloat16().float()),
    ),
    "smoothed": ("softmax", of_logits(lambda z: 0.9 * z.softmax(1) + 0.1 / 4)),
    "evidence": ("softmax", of_logits(lambda z: (z.exp() + 1) / (z.exp() + 1).sum(1, keepdim=True))),
    "mean of sigmoids": ("sigmoid", both(lambda a, b: torch.stack([a.sigmoid(), b.sigmoid()]).mean(0))),
    "sum of sigmoids": ("sigmoid", both(lambda a, b: (a.sigmoid() + b.sigmoid()) / 2)),
    "either of two": ("sigmoid", both(lambda a, b: 1 - (1 - a.sigmoid()) * (1 - b.sigmoid()))),
    "without the background": ("sigmoid", of_logits(lambda z: z.softmax(1)[:, 1:])),
    "hard": ("sigmoid", of_logits(functional.hardsigmoid)),
    "clamped": ("sigmoid", of_logits(lambda z: z.clamp(0, 1))),
}


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize("form", [as_it_is, traced])
@pytest.mark.parametrize("ending", PROBABILITIES)
def test_probabilities_are_seen_where_no_one_tensor_makes_them(
    ending: str, form: Callable[[Any], nn.Module], is_normalised: bool
) -> None:
    name, function = PROBABILITIES[ending]

    with torch.no_grad():
        found = final_activation(form(Net(function, is_normalised=is_normalised)), IMAGES)

    assert found is not None
    assert (found.name, found.read) == (name, None)


EYE = torch.eye(4) - 0.1
SMALL_PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {
    "einsum": lambda z: torch.einsum("nk,kj->nj", z, EYE) * 1e-3 + 0.5,
    "matmul": lambda z: (z @ EYE) * 1e-3 + 0.5,
    "mm": lambda z: z.relu().mm(EYE) * 1e-3 + 0.5,
    "bmm": lambda z: z[:, None].bmm(EYE.expand(z.shape[0], 4, 4))[:, 0] * 1e-3 + 0.5,
    "tensordot": lambda z: torch.tensordot(functional.gelu(z), EYE, 1) * 1e-3 + 0.5,
}

LOGITS: dict[str, Ending] = {
    "large": of_logits(lambda z: z * 5),
    "within 0..1 by chance": of_logits(lambda z: 1e-3 * z + 0.5),
    "rectified": of_logits(functional.relu),
    "mean of two": both(lambda a, b: (a + b) / 2),
    "capped": of_logits(lambda z: 30 * torch.tanh(z / 30)),
    "product": both(torch.mul),
    **{f"{name}, small": of_logits(function) for name, function in SMALL_PRODUCTS.items()},
}


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", LOGITS)
def test_logits_are_no_probabilities_however_small(
    ending: str, form: Callable[[Any], nn.Module], is_normalised: bool
) -> None:
    with torch.no_grad():
        assert final_activation(form(Net(LOGITS[ending], is_normalised=is_normalised)), IMAGES) is None


def test_means_of_probabilities_by_a_product_are_no_logits() -> None:
    def mean(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("nk,nkj->nj", a.softmax(1), torch.stack([a.sigmoid(), b.sigmoid()] * 2, 1))

    with torch.no_grad():
        assert final_activation(Net(both(mean)), IMAGES) is not None


@pytest.mark.parametrize("form", FORMS)
def test_small_logits_of_an_operation_without_a_rule_are_told_by_larger_images(
    form: Callable[[Any], nn.Module],
) -> None:
    with torch.no_grad():
        assert final_activation(form(Net(of_logits(lambda z: 0.02 * z.cumsum(1) + 0.5))), IMAGES) is None


def test_a_model_that_takes_a_shorter_way_for_other_images_is_seen_on_what_is_common() -> None:
    net = Net(of_logits(lambda z: (z if z.max() > 10 else z * 2 / 2).softmax(1)))

    with torch.no_grad():
        found = final_activation(net, IMAGES)

        assert found is not None
        assert found.name == "softmax"
        assert_reads_logits(net, found, Net(of_logits(torch.clone))(IMAGES))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "function",
    [torch.tanh, lambda z: 100 * z.sigmoid(), lambda z: 1 + 9 * z.sigmoid(), lambda z: z.softmax(1).log2()],
)
def test_numbers_between_other_bounds_are_neither(
    form: Callable[[Any], nn.Module], function: Callable[[Tensor], Tensor]
) -> None:
    with torch.no_grad():
        found = final_activation(form(Net(of_logits(function))), IMAGES)

    assert found is not None
    assert found.name == "bounded"


@pytest.mark.parametrize("is_scaled", [False, True])
@pytest.mark.parametrize("form", [as_it_is, exported])
def test_cosines_are_logits_only_if_they_are_scaled(form: Callable[[Any], nn.Module], is_scaled: bool) -> None:
    def cosines(net: Net, features: Tensor) -> Tensor:
        found = functional.linear(functional.normalize(features), functional.normalize(net.first.weight))
        return 30 * found if is_scaled else found

    with torch.no_grad():
        found = final_activation(form(Net(cosines)), IMAGES)

    assert (found and found.name) == (None if is_scaled else "bounded")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", [torch.exp, functional.softplus, functional.relu])
def test_one_number_that_is_never_negative_is_no_logit(
    form: Callable[[Any], nn.Module], function: Callable[[Tensor], Tensor]
) -> None:
    with torch.no_grad():
        found = final_activation(form(Net(of_logits(function), 1)), IMAGES)

    assert found is not None
    assert found.name == "bounded"


@pytest.mark.parametrize("function", [torch.sigmoid, lambda z: z.softmax(1)])
def test_small_logits_are_told_from_those_that_they_are_made_of(function: Callable[[Tensor], Tensor]) -> None:
    def small(z: Tensor) -> Tensor:
        return function((z * 1e-5) / 3)

    net = Net(of_logits(small), 4)
    with torch.no_grad():
        found = final_activation(net, IMAGES)

        assert found is not None
        assert found.read is not None
        outputs, values = found.read(net, IMAGES)
        logits = Net(of_logits(torch.clone))(IMAGES) * 1e-5 / 3
        torch.testing.assert_close(found.before(values, outputs), logits, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("function", [torch.sigmoid, lambda z: z.softmax(1)])
def test_what_a_certain_model_ends_in_is_found(function: Callable[[Tensor], Tensor]) -> None:
    net = Net(of_logits(lambda z: function(-20 - z.abs()) if function is torch.sigmoid else function(60 * z)))

    with torch.no_grad():
        found = final_activation(net, IMAGES)

    assert found is not None
    assert found.read is not None


@pytest.mark.verify
@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
        *("mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"),
        *("swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32"),
    ],
)
def test_published_architectures_put_out_logits(name: str) -> None:
    side = 299 if name == "inception_v3" else 224
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))

    assert final_activation(architecture(name, side).eval(), images) is None


class OnlyPhotos(Net):
    """Refuses images that no photo makes."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.abs().max() < 10
        return super().forward(images)


class OfTable(Net):
    """Looks pixels up in a table that ends where photos do."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.linspace(-1, 1, 20)[(images + 10).long()])


@pytest.mark.parametrize("kind", [OnlyPhotos, OfTable])
def test_a_model_that_refuses_strange_images_is_seen_on_the_others(kind: type[Net]) -> None:
    found = final_activation(kind(of_logits(torch.sigmoid)), IMAGES)

    assert found is not None
    assert found.name == "sigmoid"


def test_the_images_and_the_random_numbers_of_others_are_left_alone() -> None:
    net = Net(lambda net, features: net.first(features).softmax(1))
    net.trunk.register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2))
    images, state = IMAGES.clone(), torch.get_rng_state()

    final_activation(net, images)

    assert torch.equal(images, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
