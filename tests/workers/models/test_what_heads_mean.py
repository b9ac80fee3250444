"""Heads by what they mean by their construction: logits at any scale are logits, and an activation is found at any."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import ModelRefused
from heatmill.schemas.vocabulary import Activation
from heatmill_workers.models.proof.activation import Ending, see_ending
from heatmill_workers.shard.predict import predict
from tests.workers.models.proof.test_activation import as_it_is, exported, traced
from tests.workers.models.test_heads import IMAGES as PHOTOS
from tests.workers.models.test_heads import loaded, names

Function = Callable[[Tensor], Tensor]
IMAGES = torch.cat([torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 3, 12, 12)])
PROTOTYPES = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
WEIGHTS = 0.5 * torch.randn(4, 8, generator=torch.Generator().manual_seed(4))
LABELS = names(4)


class Net(nn.Module):
    """A convolution, the mean over positions, and a function of these eight features; the same each time."""

    def __init__(self, head: Function) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.trunk = nn.Conv2d(3, 8, 3, stride=2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.register_buffer("prototypes", PROTOTYPES)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images).relu().mean((2, 3)))


def linear(features: Tensor) -> Tensor:
    return functional.linear(features, WEIGHTS)


def distances(features: Tensor) -> Tensor:
    return torch.cdist(features, PROTOTYPES)


def squares(features: Tensor) -> Tensor:
    return (features[:, None] - PROTOTYPES).pow(2).sum(2)


def cosines(features: Tensor) -> Tensor:
    return functional.linear(functional.normalize(features), functional.normalize(PROTOTYPES))


def scaled(function: Function, factor: float, shift: float = 0) -> Function:
    return lambda features: function(features) * factor + shift


def constant(*values: float) -> Function:
    """A linear layer whose weights are 0, so that its outputs are the same in all rows."""
    return lambda features: functional.linear(features, torch.zeros(len(values), 8), torch.tensor(values).float())


LOGITS: dict[str, Function] = {
    **{f"distances times {scale}": scaled(distances, -scale) for scale in (0.01, 1, 3, 30, 1000)},
    **{f"squared distances times {scale}": scaled(squares, -scale) for scale in (0.01, 1, 10, 1000)},
    "squared distances by products": lambda x: (
        2 * x @ PROTOTYPES.T - x.square().sum(1, True) - PROTOTYPES.square().sum(1)
    ),
    "distances of directions": lambda x: -40 * torch.cdist(functional.normalize(x), functional.normalize(PROTOTYPES)),
    "angles": lambda x: -20 * torch.arccos(cosines(x).clamp(-1 + 1e-6, 1 - 1e-6)),
    "city blocks": lambda x: -9 * (x[:, None] - PROTOTYPES).abs().sum(2),
    "cosines, scaled": scaled(cosines, 30),
    "cosines, scaled and shifted": scaled(cosines, 30, -60),
    **{f"linear, shifted by {shift}": scaled(linear, 0.1, shift) for shift in (-100, -40, -12, -7, -3, 7, 40)},
    **{f"linear times {scale}": scaled(linear, scale) for scale in (1e-12, 1e-8, 1e-6, 1e-4, 1e4, 1e20)},
    **{
        f"around {at:.2g}, by {by}": scaled(linear, by, at)
        for at in (0.25, 0.5, 0.659, -1.386, -2)
        for by in (1e-4, 1e-7)
    },
    "without the largest": lambda x: 200 * (linear(x) - linear(x).amax(1, True)),
    **{f"constant {at:.2g}": constant(at, at, at, at) for at in (0, 0.25, 0.5, 1, -1.386, -2, -40, 40)},
    "constants": constant(0.4, 0.3, 0.2, 0.1),
    "constant logarithms": constant(-1, -1.2, -1.4, -2.1),
    "two by opposite weights": lambda x: functional.linear(x, torch.stack([WEIGHTS[0], -WEIGHTS[0]])) * 1e-5 + 0.5,
    "two around a half": lambda x: linear(x)[:, :2] * 1e-4 + 0.5,
    "beside a reference": lambda x: torch.cat([linear(x)[:, :1] * 0.1 - 40, torch.zeros_like(x[:, :1])], 1),
}
# Nothing tells these from probabilities or their logarithms, or says what they are: the operator has to.
UNTOLD: dict[str, Function] = {
    "kernel": lambda x: (-squares(x)).exp(),
    "kernel of the distance": lambda x: (-distances(x)).exp(),
    "narrow kernel": lambda x: (-30 * squares(x) - 20).exp(),
    "inverse distance": lambda x: 1 / (1 + squares(x)),
    "cosines": cosines,
    "cosines within 0..1": lambda x: (1 + cosines(x)) / 2,
    "cosines by torch": lambda x: functional.cosine_similarity(x[:, None], PROTOTYPES, dim=2),
    "tanh": lambda x: linear(x).tanh(),
    "distances near zero": scaled(distances, 1e-6),
    "logarithms of sigmoids in another order": lambda x: functional.logsigmoid(linear(x)).flip(1),
    "logarithms of means": lambda x: ((linear(x).sigmoid() + squares(x).sigmoid()) / 2).log(),
    "cut off above": lambda x: (linear(x) - 40).clamp(max=0),
}
Z: dict[str, Function] = {
    "moderate": linear,
    "negative": scaled(linear, 0.1, -40),
    "positive": scaled(linear, 0.1, 12),
    "distances": scaled(squares, -3),
    "small": scaled(linear, 1e-6),
    "far apart": scaled(linear, 50),
}
FORMS: dict[str, tuple[Activation, Function]] = {
    "softmax": ("softmax", lambda z: z.softmax(1)),
    "log_softmax": ("softmax", lambda z: z.log_softmax(1)),
    "sigmoid": ("sigmoid", torch.sigmoid),
    "log_sigmoid": ("sigmoid", functional.logsigmoid),
}
SPELLINGS: dict[str, tuple[str, Function]] = {
    "log of softmax": ("log_softmax", lambda z: z.softmax(1).log()),
    "exp of log_softmax": ("softmax", lambda z: z.log_softmax(1).exp()),
    "log of sigmoid": ("log_sigmoid", lambda z: z.sigmoid().log()),
    "minus softplus": ("log_sigmoid", lambda z: -functional.softplus(-z)),
    "exp of logsigmoid": ("sigmoid", lambda z: functional.logsigmoid(z).exp()),
    "special": ("sigmoid", torch.special.expit),
    "over channels": ("softmax", lambda z: nn.Softmax2d()(z[:, :, None, None]).flatten(1)),
    "in half precision": ("sigmoid", lambda z: z.bfloat16().sigmoid().float()),
}


@cache
def ending(name: str, form: Callable[[Net], nn.Module]) -> Ending:
    with torch.no_grad():
        return see_ending(form(Net({**LOGITS, **UNTOLD}[name])), IMAGES)


@pytest.mark.parametrize("form", [as_it_is, traced])
@pytest.mark.parametrize("name", LOGITS)
def test_logits_at_any_scale_are_logits(name: str, form: Callable[[Net], nn.Module]) -> None:
    assert ending(name, form).final is None


@pytest.mark.parametrize(
    "name", ["city blocks", "squared distances times 10", "angles", "linear, shifted by -40", "constant 0.25"]
)
def test_logits_of_exported_files_are_logits(name: str) -> None:
    assert ending(name, exported).final is None


@pytest.mark.parametrize("name", UNTOLD)
def test_what_may_be_a_number_of_any_kind_is_asked_for(name: str) -> None:
    final = ending(name, as_it_is).final

    assert final is not None
    assert final.name == "bounded"


@pytest.mark.parametrize("name", UNTOLD)
def test_compiled_files_do_not_make_probabilities_of_it(name: str) -> None:
    final = ending(name, traced).final

    assert final is None or final.name == "bounded"


def outputs(head: Function) -> Tensor:
    with torch.no_grad():
        found: Tensor = Net(head)(PHOTOS)
    return found


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "name",
    [
        *(
            "distances times 3",
            "squared distances times 1000",
            "angles",
            "linear, shifted by -40",
            "linear times 1e-08",
        ),
        *("constant 0.25", "constants", "constant logarithms", "around 0.25, by 1e-07", "two by opposite weights"),
        *("beside a reference", "without the largest", *UNTOLD),
    ],
)
def test_what_the_operator_says_of_numbers_of_any_kind_holds(name: str, activation: Activation) -> None:
    head = {**LOGITS, **UNTOLD}[name]
    wanted = outputs(head)
    model = loaded(Net(head), *names(wanted.shape[1]), activation=activation)

    assert model.head.activation == activation
    torch.testing.assert_close(
        predict(model, PHOTOS), wanted.softmax(1) if activation == "softmax" else wanted.sigmoid()
    )


@pytest.mark.parametrize(
    "name", ["distances times 3", "linear, shifted by -40", "angles", "cosines, scaled and shifted"]
)
def test_logits_at_any_scale_have_the_probabilities_of_softmax(name: str) -> None:
    torch.testing.assert_close(predict(loaded(Net(LOGITS[name]), *LABELS), PHOTOS), outputs(LOGITS[name]).softmax(1))


def after(name: str, z: str) -> Function:
    function = SPELLINGS[name][1] if name in SPELLINGS else FORMS[name][1]
    return lambda features: function(Z[z](features))


@pytest.mark.parametrize("form", [as_it_is, traced])
@pytest.mark.parametrize("z", Z)
@pytest.mark.parametrize("name", [*FORMS, *SPELLINGS])
def test_an_activation_is_found_at_any_scale_of_what_goes_into_it(
    name: str, z: str, form: Callable[[Net], nn.Module]
) -> None:
    wanted = SPELLINGS[name][0] if name in SPELLINGS else name
    if name.startswith(("log of", "minus")) and z in {"far apart", "distances"}:
        pytest.skip("its logarithm is minus infinity, or rounded to nothing")
    with torch.no_grad():
        module = form(Net(after(name, z)))
        final = see_ending(module, IMAGES).final

        assert final is not None
        assert final.name == wanted
        if wanted != "log_softmax":
            assert final.read is not None
            made, values = final.read(module, IMAGES)
            right = Z[z](Net(torch.clone)(IMAGES))
            shift = (right - final.before(values, made)).mean(1, keepdim=True) if wanted == "softmax" else 0
            torch.testing.assert_close(final.before(values, made) + shift, right, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("z", ["negative", "distances", "far apart"])
@pytest.mark.parametrize("name", FORMS)
def test_what_is_proved_contradicts_the_operator(name: str, z: str) -> None:
    right = FORMS[name][0]
    wrong: Activation = "softmax" if right == "sigmoid" else "sigmoid"

    assert loaded(Net(after(name, z)), *LABELS, activation=right).head.explains in {"logit", "log-probability"}
    with pytest.raises(ModelRefused, match=f"ends in {name} already"):
        loaded(Net(after(name, z)), *LABELS, activation=wrong)


def test_two_shares_of_one_sigmoid_may_be_called_sigmoids() -> None:
    def shares(features: Tensor) -> Tensor:
        one = functional.hardsigmoid(linear(features)[:, :1])
        return torch.cat([one, 1 - one], 1)

    for activation in ("softmax", "sigmoid", None):
        model = loaded(Net(shares), *names(2), activation=activation)

        torch.testing.assert_close(predict(model, PHOTOS), outputs(shares))
