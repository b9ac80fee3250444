"""From a spec to a model: what is checked, what is frozen, what an operator is told."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.errors import ModelUnavailable, WeightsUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.digest import digest
from heatmill_workers.models.loading import load, prepare
from tests.workers.small import CPU, LABELS, architecture, loaded

SIDE = 64


def spec(**fields: Any) -> ModelSpec:
    small: dict[str, Any] = {
        "name": "birds",
        "loader": "torchvision",
        "architecture": "resnet18",
        "labels": LABELS,
        "preprocessing": Preprocessing(resize=SIDE, crop=SIDE),
    }
    return ModelSpec(**{**small, **fields})


def save_safetensors(module: nn.Module, path: Path) -> None:
    safetensors.torch.save_file(module.state_dict(), path)


def save_pickle(module: nn.Module, path: Path) -> None:
    torch.save(module.state_dict(), path)


def save_checkpoint(module: nn.Module, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": module.state_dict()}, path)


@pytest.mark.parametrize(
    ("file", "save"),
    [("w.safetensors", save_safetensors), ("w.pth", save_pickle), ("checkpoint.pth", save_checkpoint)],
)
def test_weights_come_from_a_file(tmp_path: Path, file: str, save: Callable[[nn.Module, Path], None]) -> None:
    module = architecture("resnet18")
    save(module, tmp_path / file)

    model = load(spec(weights=tmp_path / file), CPU)

    assert model.digest == digest(module)
    assert (model.name, model.labels, model.device, model.dtype) == ("birds", LABELS, CPU, torch.float32)
    assert model.supports == {"gradients", "spatial layer", "operations"}
    assert model.preprocessing.input_size == (SIDE, SIDE)


def test_a_model_is_frozen_in_eval_mode_and_channels_last() -> None:
    model = loaded(architecture("resnet18"))

    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert not any(module.training for module in model.module.modules())
    assert model.module.get_parameter("conv1.weight").is_contiguous(memory_format=torch.channels_last)
    assert not any(module._forward_hooks for module in model.module.modules())


def test_the_digest_knows_names_values_and_types_but_not_memory_layout() -> None:
    module = architecture("resnet18")
    first = digest(module)

    assert digest(module.to(memory_format=torch.channels_last)) == first
    with torch.no_grad():
        module.get_parameter("fc.bias")[0] += 1e-6
    assert digest(module) != first
    assert digest(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))) != digest(nn.Sequential(nn.Linear(2, 2)))


def test_published_weights_carry_heads_for_training_that_are_dropped(tmp_path: Path) -> None:
    with_heads = {**architecture("googlenet").state_dict(), "aux1.fc1.weight": torch.zeros(2)}
    safetensors.torch.save_file(with_heads, tmp_path / "w.safetensors")

    model = load(spec(architecture="googlenet", weights=tmp_path / "w.safetensors"), CPU)

    assert model.digest == digest(architecture("googlenet"))


def test_densenets_old_names_are_understood(tmp_path: Path) -> None:
    new = architecture("densenet121").state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor for name, tensor in new.items()}
    safetensors.torch.save_file(old, tmp_path / "w.safetensors")

    model = load(spec(architecture="densenet121", weights=tmp_path / "w.safetensors"), CPU)

    assert model.digest == digest(architecture("densenet121"))


class Unsafe:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Unsafe()}, tmp_path / "w.pth")

    with pytest.raises(ModelUnavailable, match="no file of plain tensors"):
        load(spec(weights=tmp_path / "w.pth"), CPU)

    assert capsys.readouterr().out == ""


def test_a_file_of_another_sha256_is_refused(tmp_path: Path) -> None:
    save_safetensors(architecture("resnet18"), tmp_path / "w.safetensors")

    with pytest.raises(ModelUnavailable, match=r"birds.*has sha256 .*`sha256` in models\.toml is 0000"):
        load(spec(weights=tmp_path / "w.safetensors", sha256="0" * 64), CPU)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"birds.*nowhere\.pth.*`weights` in models\.toml"):
        load(spec(weights=tmp_path / "nowhere.pth"), CPU)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02]q\x00."])
@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_a_file_that_is_no_weights_is_named(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)

    with pytest.raises(ModelUnavailable, match=file):
        load(spec(weights=tmp_path / file), CPU)


def before(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


CHECKPOINTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "DataParallel": lambda weights: before("module.", weights),
    "torch.compile of DataParallel": lambda weights: before("_orig_mod.module.", weights),
    "Lightning": lambda weights: {"state_dict": before("model.", weights), "epoch": 3},
    "the ImageNet example": lambda weights: {
        "state_dict": before("module.", weights),
        "best_acc1": torch.tensor(70.0),
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []},
    },
    "PyTorch's tutorial": lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {}, "loss": 0.3},
    "under a name of its own": lambda weights: {"net": weights, "acc": 93.0},
    "averaged": lambda weights: {"n_averaged": torch.tensor(3), **before("module.", weights)},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_weights_are_found_as_training_leaves_them(tmp_path: Path, kind: str) -> None:
    module = architecture("resnet18")
    torch.save(CHECKPOINTS[kind](module.state_dict()), tmp_path / "w.pth")

    assert load(spec(weights=tmp_path / "w.pth"), CPU).digest == digest(module)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda weights: {"model": weights, "model_ema": weights}, "the state dicts model, model_ema; save one alone"),
        (lambda weights: {**before("module.", weights), "criterion.weight": torch.ones(10)}, "not resnet18's"),
        (lambda weights: list(weights.items()), "holds a list, and no state dict"),
        (lambda weights: {"epoch": 3}, "holds no state dict"),
    ],
)
def test_of_what_may_be_meant_nothing_is_guessed(
    tmp_path: Path, content: Callable[[dict[str, Tensor]], Any], reason: str
) -> None:
    torch.save(content(architecture("resnet18").state_dict()), tmp_path / "w.pth")

    with pytest.raises(ModelUnavailable, match=reason):
        load(spec(weights=tmp_path / "w.pth"), CPU)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_safetensors(architecture("squeezenet1_1"), tmp_path / "w.safetensors")

    with pytest.raises(ModelUnavailable, match="the weights are not resnet18's"):
        load(spec(weights=tmp_path / "w.safetensors"), CPU)


def test_without_a_network_the_setting_that_helps_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    # A port on which nobody listens stands for a network that is not there.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")

    with pytest.raises(WeightsUnavailable, match=r"birds: torchvision's weights of resnet18.*`weights` in models"):
        load(spec(labels=None), CPU)


def test_an_architecture_that_torchvision_lacks_is_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"birds.*no classifier 'resnet5'"):
        load(spec(architecture="resnet5"), CPU)


def test_labels_must_be_as_many_as_classes() -> None:
    built = Built(architecture("resnet18"), Preprocessing(resize=SIDE, crop=SIDE), LABELS)

    with pytest.raises(ModelUnavailable, match="10 classes and 2 labels; correct `labels`"):
        prepare(spec(labels=("cat", "dog")), built, CPU)


def test_a_cam_layer_that_is_not_there_is_named() -> None:
    built = Built(architecture("resnet18"), Preprocessing(resize=SIDE, crop=SIDE), LABELS)

    with pytest.raises(ModelUnavailable, match=r"`cam_layer` in models\.toml: there is no module 'layer9'"):
        prepare(spec(cam_layer="layer9"), built, CPU)


def test_a_size_that_the_model_does_not_take_is_named() -> None:
    built = Built(architecture("vit_b_32", SIDE), Preprocessing(resize=96, crop=96), LABELS)

    with pytest.raises(ModelUnavailable, match="does not run on 96 x 96 pixels, neither on 5 images nor"):
        prepare(spec(preprocessing=None), built, CPU)


class NoClassifier(nn.Module):
    """Puts out maps."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_what_puts_out_no_logits_is_refused() -> None:
    built = Built(NoClassifier(), Preprocessing(resize=SIDE, crop=SIDE), LABELS)

    with pytest.raises(ModelUnavailable, match=r"birds puts out \(N, 3, 64, 64\) of float32; wanted are logits"):
        prepare(spec(), built, CPU)


def test_a_model_with_five_dimensional_weights_is_loaded_too() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv3d(1, 2, 3), nn.Linear(2, len(LABELS))

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.head(self.conv(images.unsqueeze(1)).mean((2, 3, 4)))
            return out

    assert loaded(Deep(), side=8).supports >= {"operations"}


@pytest.mark.parametrize(
    ("switch", "read"),
    [
        ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
        ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
        ("torch.set_default_device('meta')", torch.get_default_device),
        ("torch.use_deterministic_algorithms(True)", torch.are_deterministic_algorithms_enabled),
        ("torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
        ("torch.autograd.set_detect_anomaly(True)", torch.is_anomaly_enabled),
        ("torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
        ("torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    ],
)
def test_what_an_operators_module_sets_for_the_process_ends_with_its_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, read: Callable[[], object]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"sets_{abs(hash(switch))}"
    (tmp_path / f"{name}.py").write_text(
        "import torch, torchvision\nnet = lambda: torchvision.models.resnet18(num_classes=10)\n" + switch
    )
    before = read()
    with suppress(ModelUnavailable):
        load(
            spec(loader="python", architecture=f"{name}:net", preprocessing=Preprocessing(resize=SIDE, crop=SIDE)), CPU
        )

    assert read() == before


class Compiled(nn.Module):
    """Its trunk is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk: Any = torch.compile(architecture("resnet18"))

    def forward(self, images: Tensor) -> Any:
        return self.trunk(images)


def compiled_in_place() -> nn.Module:
    module = architecture("resnet18")
    module.compile()
    return module


@pytest.mark.parametrize("make", [lambda: torch.compile(architecture("resnet18")), Compiled, compiled_in_place])
def test_what_torch_compile_made_is_explained_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module]
) -> None:
    monkeypatch.setattr("tests.workers.models.test_loading.compiled", make, raising=False)
    own = {"architecture": "tests.workers.models.test_loading:compiled"}
    model = load(spec(loader="python", preprocessing=Preprocessing(resize=SIDE, crop=SIDE), **own), CPU)

    assert model.supports >= {"gradients", "spatial layer", "operations"}
    assert not any(part._compiled_call_impl for part in model.module.modules())
    assert not any("_orig_mod" in name for name, _ in model.module.named_modules())
