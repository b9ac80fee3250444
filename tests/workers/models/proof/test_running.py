"""A model runs folded, channels-last and in float32 where it can, and as it was given where it cannot."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.models.proof.subjects import (
    PARAMS,
    Flattens,
    Net,
    gradients,
    maps,
    noise,
    proved,
    seeded,
)


class ViewsItsGrid(Net):
    """A learned map that is viewed as one row."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.randn(1, 8, 11, 11))

    def read(self, features: Tensor) -> Tensor:
        weighted: Tensor = features.flatten(1) * self.grid.view(1, -1)
        return weighted.view(len(features), 8, -1).mean(2)


class InAnotherWayWhenBright(Net):
    """Another norm for bright images: what is seen of the one says nothing of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(6)

    def features(self, images: Tensor) -> Tensor:
        return torch.cat([self.one(image) for image in torch.split(images, 1)])

    def one(self, image: Tensor) -> Tensor:
        norm = self.other if image.mean() > 3 else self.norm
        maps: Tensor = self.second(norm(self.first(image)).relu()).relu()
        return maps


class NormByMode(Net):
    """A norm that is there and not used on any input that a model is proved on."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(6)


class WithoutBias(nn.Conv2d):
    """A convolution that would lose the bias of a batch norm that is folded into it."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.conv2d(images, self.weight, padding=1)


class CannotBeFolded(Net):
    """What shows only in the outputs of the folded model."""

    def __init__(self) -> None:
        super().__init__()
        self.first = WithoutBias(3, 6, 3, padding=1, bias=False)


class ComplexWeights(Net):
    """Complex numbers that lie in a parameter of four dimensions, multiplied in the frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 11, 6, 2))

    def read(self, features: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(features) * torch.view_as_complex(self.filter)
        filtered: Tensor = torch.fft.irfft2(spectrum, s=(11, 11))
        return filtered.relu().mean((2, 3))


def pruned() -> nn.Module:
    module = Net()
    prune.random_unstructured(module.first, "weight", 0.5)  # type: ignore[no-untyped-call]
    return module


def weight_normed() -> nn.Module:
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(module.first)
        nn.utils.spectral_norm(module.second)
    return module


def parametrised() -> nn.Module:
    module = Net()
    parametrizations.weight_norm(module.first)
    parametrizations.orthogonal(module.second)
    return module


KINDS = [
    Net,
    Flattens,
    ViewsItsGrid,
    InAnotherWayWhenBright,
    NormByMode,
    CannotBeFolded,
    ComplexWeights,
    pruned,
    weight_normed,
    parametrised,
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_module_as_it_was_given(kind: Callable[[], nn.Module]) -> None:
    untouched, model, images = seeded(kind), proved(seeded(kind)), noise()  # type: ignore[arg-type]
    images[2] += 5

    wanted = gradients(untouched, images)

    for found in (
        maps("saliency", model, images),
        torch.cat([maps("saliency", model, each) for each in torch.split(images, 1)]),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_what_was_done_to_a_model_is_told() -> None:
    plain, flattens, branches = (proved(seeded(kind)).facts for kind in (Net, Flattens, InAnotherWayWhenBright))

    assert (plain.channels_last, plain.folded_norms, plain.dtype) == (True, 1, "float32")
    assert (flattens.channels_last, flattens.folded_norms) == (False, 1)
    assert (branches.channels_last, branches.folded_norms) == (False, 0)
    assert proved(seeded(NormByMode)).facts.folded_norms == 0


class RunsInHalf(Net):
    """Casts its images, whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.to(torch.bfloat16)).float()  # type: ignore[no-any-return]


class UnderAutocast(Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = super().forward(images)
        return logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_run_in_float32(dtype: torch.dtype) -> None:
    model, images = proved(seeded(Net).to(dtype)), noise()
    wanted = gradients(seeded(Net).to(dtype).float(), images)

    assert (model.facts.dtype, model.dtype) == ("float32", torch.float32)
    torch.testing.assert_close(
        maps("saliency", model, images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())
    )


@pytest.mark.parametrize("kind", [RunsInHalf, UnderAutocast])
@pytest.mark.parametrize("method", PARAMS)
def test_a_model_that_casts_by_itself_is_explained_as_it_runs_and_says_so(method: str, kind: type[Net]) -> None:
    model, other, images = proved(seeded(kind)), proved(seeded(Net)), noise()

    found, wanted = maps(method, model, images), maps(method, other, images)

    assert model.facts.dtype == "bfloat16"
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 0.2


@pytest.mark.parametrize("method", ["partition_shap", "lime", "integrated_gradients"])
def test_a_map_of_differences_that_half_precision_rounds_is_not_said_to_be_precise(method: str) -> None:
    """The logits of this net differ by a few units in the last place of bfloat16."""

    class Steady(UnderAutocast):
        def read(self, features: Tensor) -> Tensor:
            return 0.01 * super().read(features) + 1

    found = explain(method, proved(seeded(Steady)), noise(2), torch.tensor([1, 2]), PARAMS[method])

    for each in found:
        assert isinstance(each, Explanation)
        assert each.verdict in {"imprecise", "blank"}


def test_the_operator_may_want_less_precision() -> None:
    model = proved(seeded(Net), dtype="bfloat16")

    assert (model.facts.dtype, model.facts.input_dtype) == ("bfloat16", "bfloat16")
    assert model.facts.folded_norms == 0
    assert maps("grad_cam", model, noise()).dtype == torch.float32
    assert next(model.module.parameters()).dtype == torch.bfloat16


def test_a_model_of_float64_runs_in_float32() -> None:
    model, images = proved(seeded(Net).double()), noise()
    wanted = gradients(seeded(Net), images)

    torch.testing.assert_close(
        maps("saliency", model, images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())
    )
