"""A model runs folded, channels-last and in float32 where it can, and as it was given where it cannot."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from heatmill.errors import UnsupportedOperation
from heatmill.models import Preprocessing
from heatmill.schemas import ModelFacts
from heatmill_workers.models.digest import digest
from heatmill_workers.models.loaded import Built, LoadedModel
from heatmill_workers.models.loading import Proofs, prepare, proof_key
from tests.workers.models.proof.subjects import (
    LABELS,
    PARAMS,
    PREPROCESSING,
    Net,
    entry,
    maps,
    noise,
    proved,
    seeded,
)
from tests.workers.small import CPU


def gradients(module: nn.Module, images: Tensor) -> Tensor:
    """Of class 1, by a module that nobody touched, and never of a single row."""
    leaf = images.clone().requires_grad_()
    logits = module(torch.cat([leaf, images.flip(0)]).clone())[: len(images)]
    (found,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    return found


class Flattens(Net):
    """`.view`, which only contiguous maps allow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 11 * 11, len(LABELS))

    def read(self, features: Tensor) -> Tensor:
        return features.view(-1, 8 * 11 * 11)


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


def test_the_operator_may_want_less_precision() -> None:
    model = proved(seeded(Net), dtype="bfloat16")

    assert (model.facts.dtype, model.facts.input_dtype) == ("bfloat16", "bfloat16")
    assert model.facts.folded_norms == 0
    assert maps("grad_cam", model, noise()).dtype == torch.float32
    assert next(model.module.parameters()).dtype == torch.bfloat16


class Table:
    """An object that prints where in memory it lies."""

    def __init__(self, rows: object) -> None:
        self.rows = rows


class WithState(Net):
    """Keeps more than tensors."""

    def __init__(self, state: object = None) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> object:
        """A setting."""
        return self.state

    def set_extra_state(self, state: object) -> None:
        """Nothing is restored."""


def counted(last: float, kind: str = "float64") -> Any:
    """So many numbers that NumPy does not print all of them; the one in the middle is another."""
    numbers = np.zeros(5000, kind)
    numbers[2500] = last
    return numbers


def nested(depth: int) -> Table:
    table = Table(None)
    table.rows = [table, depth]
    return table


STATES: list[tuple[Callable[[], object], Callable[[], object]]] = [
    (lambda: {"threshold": 0.5}, lambda: {"threshold": 0.25}),
    (lambda: counted(1), lambda: counted(2)),
    (lambda: counted(1), lambda: counted(1, "float32")),
    (lambda: np.array(["a", None]), lambda: np.array(["b", None])),
    (lambda: np.float32(0.1), lambda: np.float32(0.2)),
    (lambda: Table(counted(1)), lambda: Table(counted(2))),
    (lambda: Table([Table(1)]), lambda: Table([Table(2)])),
    (lambda: [Table(torch.zeros(2))], lambda: [Table(torch.ones(2))]),
    (lambda: io.BytesIO(b"a"), lambda: io.BytesIO(b"b")),
    (lambda: {"cat", "dog", "bird"}, lambda: {"cat", "dog", "fish"}),
    (list, lambda: None),
    (lambda: "1", lambda: 1),
    (lambda: nested(1), lambda: nested(2)),
    (lambda: math.sin, lambda: math.cos),
    (lambda: Table, lambda: WithState),
]


@pytest.mark.parametrize(("state", "other"), STATES)
def test_what_a_module_keeps_besides_tensors_is_in_its_digest(
    state: Callable[[], object], other: Callable[[], object]
) -> None:
    def found(make: Callable[[], object]) -> str:
        torch.manual_seed(1)
        return digest(WithState(make()))

    first, again, changed = map(found, (state, state, other))

    assert first == again
    assert first != changed


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


def test_a_model_of_float64_runs_in_float32() -> None:
    model, images = proved(seeded(Net).double()), noise()
    wanted = gradients(seeded(Net), images)

    torch.testing.assert_close(
        maps("saliency", model, images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())
    )


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


def scripted(kind: type[nn.Module], path: Path) -> nn.Module:
    torch.jit.trace(seeded(kind), noise(2)).save(str(path))  # type: ignore[no-untyped-call]
    module: nn.Module = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return module


def exported(kind: type[nn.Module], path: Path) -> nn.Module:
    free = ({0: torch.export.Dim("count", min=1)},)
    torch.export.save(torch.export.export(seeded(kind), (noise(2),), dynamic_shapes=free), path)
    from heatmill_workers.models.loaders.torch_export import Exported

    return Exported(torch.export.load(path).module())


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


class Counts(Net):
    passes = 0

    def forward(self, images: Tensor) -> Any:
        Counts.passes += 1
        return super().forward(images)


def test_known_facts_make_the_same_model_without_another_proof() -> None:
    kept: dict[str, ModelFacts] = {}
    spec = entry(loader="torchvision", architecture="resnet18")
    proofs = Proofs("code", kept.get, lambda _, facts: kept.update({facts.key: facts}))
    counts = [Counts.passes]

    def load() -> LoadedModel:
        model = prepare(spec, Built(seeded(Counts), PREPROCESSING, LABELS), CPU, proofs)
        counts.append(Counts.passes)
        return model

    first, second = load(), load()

    proving, knowing = (after - before for before, after in pairwise(counts))
    # A fold is laid out by two passes, also where it is known.
    assert proving - knowing >= 10
    assert list(kept.values()) == [first.facts] == [second.facts]
    assert first.facts.supports == ("gradients", "operations", "spatial layer")
    assert torch.equal(first.module(noise()), second.module(noise()))
    kept[first.facts.key] = first.facts.model_copy(update={"folded_norms": 0})
    third = prepare(spec, Built(seeded(Counts), PREPROCESSING, LABELS), CPU, proofs)
    assert isinstance(third.module.get_submodule("norm"), nn.BatchNorm2d)
    other = prepare(spec, Built(seeded(Flattens), PREPROCESSING, LABELS), CPU, proofs)
    assert other.facts.key != first.facts.key


class Named(nn.Module):
    """Prints a setting, as a transformers model prints its config.json, and where in memory a function lies."""

    def __init__(self, setting: str) -> None:
        super().__init__()
        self.setting = setting

    def extra_repr(self) -> str:
        """Differs in each process."""
        return f"{self.setting} {object()}"


def test_facts_are_those_of_the_weights_the_entry_what_the_loader_found_the_type_of_device_and_the_code() -> None:
    card, named = torch.device("cuda:0"), entry(loader="transformers", preprocessing=None)
    built = Built(Named("12 heads"), PREPROCESSING, LABELS)
    known = proof_key(named, built, "weights", card, "code")
    others = [
        proof_key(named, built, "other weights", card, "code"),
        proof_key(entry(loader="transformers", preprocessing=None, dtype="bfloat16"), built, "weights", card, "code"),
        proof_key(named, built, "weights", CPU, "code"),
        proof_key(named, built, "weights", card, "other code"),
        proof_key(named, replace(built, module=Named("6 heads")), "weights", card, "code"),
        proof_key(named, replace(built, activation="sigmoid"), "weights", card, "code"),
        proof_key(named, replace(built, preprocessing=Preprocessing(resize=32)), "weights", card, "code"),
    ]

    assert known not in others
    assert len(set(others)) == len(others)
    assert known == proof_key(
        named, replace(built, module=Named("12 heads")), "weights", torch.device("cuda:1"), "code"
    )


def test_an_operators_own_code_is_proved_in_each_process() -> None:
    asked: list[str] = []
    prepare(entry(), Built(seeded(Net), PREPROCESSING, LABELS), CPU, Proofs("code", asked.append))

    assert not asked
