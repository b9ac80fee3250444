"""Whether a model has gradients, and whether those of an image alone are those that it has in a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.loading import prepare
from tests.workers.models.proof.subjects import (
    LABELS,
    PREPROCESSING,
    Flattens,
    Net,
    entry,
    exported,
    gradients,
    maps,
    noise,
    proved,
    scripted,
    seeded,
)
from tests.workers.small import CPU


@pytest.mark.filterwarnings("ignore:.*quantize_dynamic:DeprecationWarning", "ignore:.*torch.ao:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantised_model_is_explained_by_black_boxes_and_refused_in_words_by_the_rest() -> None:
    module = torch.ao.quantization.quantize_dynamic(seeded(Net), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    model, images = proved(module), noise()

    for method in ("partition_shap", "lime"):
        alone = torch.cat([maps(method, model, image) for image in torch.split(images, 1)])
        assert torch.equal(maps(method, model, images), alone)
    for method in ("saliency", "integrated_gradients", "gradient_shap", "grad_cam", "deep_lift"):
        with pytest.raises(UnsupportedOperation, match="quantised layers"):
            maps(method, model, images)


class ChangesWhatItKept(Net):
    def read(self, features: Tensor) -> Tensor:
        squashed = features.tanh()
        squashed.add_(1)
        return squashed.mean((2, 3))


class ChangesAPart(Net):
    def read(self, features: Tensor) -> Tensor:
        first, second = features.chunk(2, 1)
        first.relu_()
        return torch.cat([first, second], 1).mean((2, 3))


class Checkpoints(Net):
    def read(self, features: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        read: Tensor = checkpoint(super().read, features, use_reentrant=True)
        return read


@pytest.mark.parametrize(
    ("kind", "words"), [(ChangesWhatItKept, "in place"), (ChangesAPart, "in place"), (Checkpoints, "checkpoint")]
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_a_model_that_torch_cannot_differentiate_says_why(kind: type[Net], words: str) -> None:
    model, images = proved(seeded(kind)), noise()

    for method in ("saliency", "integrated_gradients", "gradient_shap", "grad_cam"):
        with pytest.raises(UnsupportedOperation, match=words):
            maps(method, model, images)
    for method in ("partition_shap", "lime"):
        assert maps(method, model, images).isfinite().all()


class WithoutMemoryForGradientsOfTwo(Net):
    def forward(self, images: Tensor) -> Any:
        if len(images) > 1 and images.requires_grad:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_too_little_memory_for_two_gradients_is_no_fault_of_the_model() -> None:
    model = proved(seeded(WithoutMemoryForGradientsOfTwo))

    assert model.facts.gradient_fault == ""
    assert maps("saliency", model, noise(1)).any()


class ByNumpy(Net):
    """Leaves torch on its way."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(torch.from_numpy(images.numpy() * 2))


class IntoAGivenTensor(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(torch.mul(images, 2, out=torch.empty_like(images)))


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values * 2


class WithoutBackward(Net):
    def features(self, images: Tensor) -> Tensor:
        doubled: Tensor = _NoBackward.apply(images)
        return super().features(doubled)


def guided() -> nn.Module:
    """Guided backpropagation, left on."""
    module = Net()

    def keep_positive(_part: nn.Module, given: Any, _found: Any) -> Any:
        return tuple(each.clamp(min=0) for each in given)

    module.norm.register_full_backward_hook(keep_positive)
    return module


@pytest.mark.parametrize(
    ("kind", "words"),
    [(ByNumpy, "numpy"), (IntoAGivenTensor, "out="), (WithoutBackward, "backward"), (guided, "hooks")],
)
def test_whatever_keeps_gradients_away_is_told_and_black_boxes_answer(
    kind: Callable[[], nn.Module], words: str
) -> None:
    model, images = proved(seeded(kind)), noise()  # type: ignore[arg-type]

    for method in ("saliency", "grad_cam"):
        with pytest.raises(UnsupportedOperation, match=words):
            maps(method, model, images)
    # DeepLIFT follows what a function of autograd does on its way forward.
    if kind is not WithoutBackward:
        with pytest.raises(UnsupportedOperation):
            maps("deep_lift", model, images)
    for method in ("partition_shap", "lime"):
        assert maps(method, model, images).isfinite().all()


class RowsInTheMiddle(nn.Module):
    """Behind a batch norm its rows are the second dimension: torch differentiates a single one of them wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8)
        self.matrix, self.head = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.first(images).clone(memory_format=torch.contiguous_format))
        logits: Tensor = self.head(torch.einsum("nchw,cd->hnwd", maps, self.matrix).relu().mean((0, 2)))
        return logits


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("loader", "save"), [("torchscript", scripted), ("torch_export", exported)])
@pytest.mark.parametrize(("kind", "two_rows"), [(RowsInTheMiddle, True), (Flattens, False)])
def test_an_image_alone_in_a_compiled_file_has_the_gradient_that_it_has_in_a_batch(
    kind: type[nn.Module],
    two_rows: bool,
    loader: str,
    save: Callable[[type[nn.Module], Path], nn.Module],
    tmp_path: Path,
) -> None:
    spec = entry(loader=loader, weights=tmp_path / "file", sha256="0" * 64, architecture=None)
    model, images = prepare(spec, Built(save(kind, tmp_path / "file"), PREPROCESSING, LABELS), CPU), noise()
    wanted = gradients(seeded(kind), images)

    assert model.facts.two_rows == two_rows
    alone = torch.cat([maps("saliency", model, image) for image in torch.split(images, 1)])
    torch.testing.assert_close(alone, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
