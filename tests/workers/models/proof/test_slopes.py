"""Gradients that are not the slopes of what a model puts out are told; methods that need none answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.models.proof.inputs import proof_images
from heatmill_workers.models.proof.slopes import slope_fault
from tests.workers.models.proof.subjects import PREPROCESSING, Net, exported, maps, noise, proved, scripted, seeded

SLOPES = "slopes of what it puts out"
ROUNDS = "straight-through"


class Detached(Net):
    """A second branch whose result counts and whose gradient is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(8, 8, 3)

    def read(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) + self.other(features)

    def other(self, features: Tensor) -> Tensor:
        return self.branch(features).relu().mean((2, 3)).detach() * 3  # type: ignore[no-any-return]


class WithoutGrad(Detached):
    def other(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return super().other(features)


class UnderInferenceMode(Detached):
    def other(self, features: Tensor) -> Tensor:
        with torch.inference_mode():
            branch = super().other(features)
        return branch.clone()


class ByData(Detached):
    def other(self, features: Tensor) -> Tensor:
        return super().other(features.data)


class DetachedGate(Net):
    def read(self, features: Tensor) -> Tensor:
        gate = (4 * features.mean((2, 3), keepdim=True)).sigmoid().detach()
        return (features * gate).mean((2, 3))


class ScaledGradient(Net):
    """Hands a tenth of its gradient on."""

    def read(self, features: Tensor) -> Tensor:
        return (features * 0.1 + features.detach() * 0.9).mean((2, 3))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Reversed(Net):
    def read(self, features: Tensor) -> Tensor:
        return super().read(_Reversed.apply(features))


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return values.clamp(min=0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (values,) = context.saved_tensors
        return gradient.clamp(min=0) * (values > 0)  # type: ignore[no-any-return]


class Guided(Net):
    def features(self, images: Tensor) -> Tensor:
        return self.second(_Guided.apply(self.norm(self.first(images)))).relu()  # type: ignore[no-any-return]


class KeepsWeightsOutside(Net):
    """Has tensors that are neither parameters nor buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = torch.eye(8) + 0.1
        self.parts = [torch.full((8, 1, 1, 1), 0.5)]

    def read(self, features: Tensor) -> Tensor:
        blurred = functional.conv2d(features, self.parts[0], groups=8)
        return functional.linear(super().read(blurred), self.mixing)


class KeepsWeightsOutsideOfAGate(KeepsWeightsOutside, DetachedGate):
    """What is detached is less than the half that is seen in float32."""


class UnderAutocast(Detached):
    def forward(self, images: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(images)


class CastsByItself(Detached):
    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()

    def forward(self, images: Tensor) -> Any:
        return super().forward(images.to(torch.bfloat16)).float()


class QuantisedInTraining(Net):
    """Fake quantisation, whose backward takes the rounding for nothing."""

    def read(self, features: Tensor) -> Tensor:
        return super().read(torch.fake_quantize_per_tensor_affine(features, 0.05, 0, 0, 255))


class RoundsItsImages(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images + ((images * 16).round() / 16 - images).detach())


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.sign()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


class Binarised(Net):
    def read(self, features: Tensor) -> Tensor:
        return super().read(_Sign.apply(features - 0.1))


MISLEADING = [
    (Detached, SLOPES),
    (WithoutGrad, SLOPES),
    (UnderInferenceMode, SLOPES),
    (ByData, SLOPES),
    (DetachedGate, SLOPES),
    (ScaledGradient, SLOPES),
    (Reversed, SLOPES),
    (Guided, SLOPES),
    (KeepsWeightsOutsideOfAGate, SLOPES),
    (UnderAutocast, SLOPES),
    (CastsByItself, SLOPES),
    (QuantisedInTraining, ROUNDS),
    (RoundsItsImages, ROUNDS),
    (Binarised, ROUNDS),
]


@pytest.mark.parametrize(("kind", "words"), MISLEADING)
def test_gradients_that_are_not_the_models_are_refused_and_black_boxes_answer(kind: type[Net], words: str) -> None:
    model, images = proved(seeded(kind)), noise()

    assert words in model.facts.gradient_fault
    for method in ("saliency", "integrated_gradients", "gradient_shap", "grad_cam"):
        with pytest.raises(UnsupportedOperation, match=words):
            maps(method, model, images)
    for method in ("partition_shap", "lime"):
        assert maps(method, model, images).isfinite().all()


def test_the_operation_that_hides_a_slope_is_named() -> None:
    assert proved(seeded(Detached)).facts.gradient_fault.endswith("it calls detach")
    assert "(round)" in proved(seeded(RoundsItsImages)).facts.gradient_fault


class OnlyPools(Net):
    def read(self, features: Tensor) -> Tensor:
        return functional.max_pool2d(functional.max_pool2d(features, 3, 1), 4).amax((2, 3))


class PoolsItsImages(Net):
    """Neighbours of a photo are often equal, and a largest one of them is any of them."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(functional.max_pool2d(images, 3, 1).clamp(-1, 1))


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return values * values.sigmoid()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (values,) = context.saved_tensors
        share = values.sigmoid()
        return gradient * share * (1 + values * (1 - share))  # type: ignore[no-any-return]


class WithABackwardThatIsRight(Net):
    def read(self, features: Tensor) -> Tensor:
        return super().read(_Swish.apply(features))


class DetachesWhatCancels(Net):
    """A softmax by hand, from whose exponents the largest is taken."""

    def read(self, features: Tensor) -> Tensor:
        rows = features.flatten(2)
        powers = (rows - rows.amax(-1, keepdim=True).detach()).exp()
        return (powers / powers.sum(-1, keepdim=True) * rows).sum(-1)


class ChoosesByRounding(Net):
    """What is rounded only chooses: almost everywhere the slope is that of what was chosen."""

    def read(self, features: Tensor) -> Tensor:
        return (features * (features > 0.3) * (features * 2).floor().clamp(0, 3)).mean((2, 3))


class WritesFloat32(Net):
    """Says everywhere in which precision it computes."""

    def read(self, features: Tensor) -> Tensor:
        shares = functional.softmax(features.flatten(2), dim=-1, dtype=torch.float32).to(torch.float32)
        means = (shares * features.flatten(2).float()).sum(-1)
        return torch.matmul(means, torch.eye(8, dtype=torch.float32))


class KeepsAGrid(Net):
    """Makes its grid anew for each size of batch, in the precision of the images."""

    grid: Tensor | None = None

    def features(self, images: Tensor) -> Tensor:
        if self.grid is None or len(self.grid) != len(images):
            self.grid = torch.linspace(-1, 1, images.shape[-1], dtype=images.dtype).expand_as(images)
        return super().features(torch.add(images, self.grid))


class Saturated(Net):
    """Probabilities of one image that are 1 and 0 as far as numbers go."""

    def forward(self, images: Tensor) -> Any:
        return (300 * super().forward(images)).softmax(-1)


RIGHT = [
    Net,
    OnlyPools,
    PoolsItsImages,
    WithABackwardThatIsRight,
    DetachesWhatCancels,
    ChoosesByRounding,
    WritesFloat32,
    KeepsAGrid,
    KeepsWeightsOutside,
]


@pytest.mark.parametrize("kind", RIGHT)
def test_slopes_of_bends_choices_and_backwards_that_are_right_are_the_gradients(kind: type[Net]) -> None:
    model = proved(seeded(kind))

    assert model.facts.gradient_fault == ""
    for count in (1, 2, 4):
        assert maps("saliency", model, noise(count)).dtype == torch.float32


def test_outputs_that_do_not_change_at_all_say_nothing_of_gradients() -> None:
    assert slope_fault(seeded(Saturated), proof_images(PREPROCESSING), is_precise=True) == ""


def test_the_weights_and_what_the_model_keeps_are_as_they_were() -> None:
    module = seeded(KeepsAGrid)
    module(noise(3))
    grid, weights = module.grid, {name: value.clone() for name, value in module.state_dict().items()}

    slope_fault(module, proof_images(PREPROCESSING), is_precise=True)

    assert module.grid is grid
    for name, value in module.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, weights[name])


class MixesPrecisions(Detached):
    """Cannot run in float64 once it is a file."""

    def read(self, features: Tensor) -> Tensor:
        return torch.matmul(super().read(features).to(torch.float32), torch.eye(8))


class RoundsToFloat32(WritesFloat32):
    """Runs in float64 as a file, and makes float32 of something on its way."""

    def read(self, features: Tensor) -> Tensor:
        shares = functional.softmax(features.flatten(2), dim=-1, dtype=torch.float32)
        return (shares * features.flatten(2)).sum(-1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("save", [scripted, exported])
@pytest.mark.parametrize(
    ("kind", "is_wrong"), [(Net, False), (Detached, True), (MixesPrecisions, True), (RoundsToFloat32, False)]
)
def test_compiled_files_are_held_against_their_slopes_too(
    kind: type[Net], is_wrong: bool, save: Callable[[type[nn.Module], Path], nn.Module], tmp_path: Path
) -> None:
    module = save(kind, tmp_path / "file.pt2")

    assert (SLOPES in slope_fault(module, proof_images(PREPROCESSING), is_precise=True)) == is_wrong
