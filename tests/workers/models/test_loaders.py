"""Every loader makes a classifier that can be explained; what cannot be had or trusted is refused by name."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from torch import nn

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.labels import config_labels
from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.errors import MethodNotSupported, ModelUnavailable, UnsupportedOperation, WeightsUnavailable
from heatmill_workers.engine.head import Head
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import register
from heatmill_workers.models.loading import load
from tests.workers.small import CPU, LABELS, architecture, photos, small_resnet
from tests.workers.vits import of_transformers

SMALL = Preprocessing(resize=64, crop=64)
TARGETS = torch.tensor([3, 7])


def spec(loader: str, **fields: Any) -> ModelSpec:
    given: dict[str, Any] = {"name": "mine", "loader": loader, "labels": LABELS, "preprocessing": SMALL}
    return ModelSpec(**{**given, **fields})


def fails() -> nn.Module:
    """A factory that does not work."""
    raise ZeroDivisionError


def no_module() -> int:
    """A factory of something else."""
    return 7


def factory() -> nn.Module:
    """A factory of a small ResNet."""
    return architecture("resnet18")


def saved_script(path: Path) -> ModelSpec:
    module = torch.jit.trace(architecture("resnet18").eval(), photos(2), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(module, path)
    return spec("torchscript", weights=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def saved_export(path: Path, *, batches: bool = True) -> ModelSpec:
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},) if batches else None
    program = torch.export.export(architecture("resnet18").eval(), (photos(2),), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return spec("torch_export", weights=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


COMPILED = pytest.mark.parametrize("save", [saved_script, saved_export])
# torch deprecates TorchScript; who has such files needs no reminder.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@COMPILED
def test_a_compiled_file_gives_its_gradients_and_nothing_from_inside(
    save: Callable[[Path], ModelSpec], tmp_path: Path
) -> None:
    model = load(save(tmp_path / "model.pt2"), CPU)

    assert model.supports == {"gradients"}
    wanted = explain("saliency", small_resnet(), photos(2), TARGETS, {})
    for entry, want in zip(explain("saliency", model, photos(2), TARGETS, {}), wanted, strict=True):
        assert isinstance(entry, Explanation)
        assert isinstance(want, Explanation)
        torch.testing.assert_close(entry.attribution, want.attribution, rtol=1e-3, atol=1e-5)
    for method in (name for name, known in register().items() if {*known.needs} - {"gradients"}):
        assert isinstance(explain(method, model, photos(1), TARGETS[:1], {})[0], UnsupportedOperation)


@COMPILED
def test_a_compiled_file_that_is_another_than_was_written_down_is_not_loaded(
    save: Callable[[Path], ModelSpec], tmp_path: Path
) -> None:
    known = save(tmp_path / "model.pt2")
    (tmp_path / "model.pt2").write_bytes((tmp_path / "model.pt2").read_bytes() + b"x")

    with pytest.raises(ModelUnavailable, match=r"mine.*has sha256.*`sha256` in models\.toml"):
        load(known, CPU)


@pytest.mark.parametrize("loader", ["torchscript", "torch_export"])
def test_a_file_that_is_not_compiled_is_named(loader: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"garbage")
    digest = hashlib.sha256(b"garbage").hexdigest()

    with pytest.raises(ModelUnavailable, match=r"mine.*w\.pt is no"):
        load(spec(loader, weights=tmp_path / "w.pt", sha256=digest), CPU)


def test_an_export_for_one_number_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="does not take 1 images; export it with a dynamic batch"):
        load(saved_export(tmp_path / "model.pt2", batches=False), CPU)


@pytest.mark.parametrize("loader", ["torchscript", "torch_export"])
def test_what_looks_inside_a_compiled_file_is_refused_before_the_job_is_accepted(loader: str, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        f"[[models]]\nname='mine'\nloader='{loader}'\nweights='m.pt'\nsha256='{'0' * 64}'\nlabels=['a', 'b']\n"
        "[models.preprocessing]\ncrop=64\n"
    )
    catalogue = load_catalogue(tmp_path / "models.toml")

    catalogue.check_supported("mine", "integrated_gradients")
    for method in catalogue.methods:
        if {*method.needs} - {"gradients"}:
            with pytest.raises(MethodNotSupported, match=f"{method.name} needs .*, which mine does not have"):
                catalogue.check_supported("mine", method.name)


def test_an_operators_own_code_makes_the_model() -> None:
    model = load(spec("python", architecture=f"{__name__}:factory"), CPU)

    assert model.digest == small_resnet().digest
    assert model.supports == small_resnet().supports


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "ZeroDivisionError"),
        ("nothing", "AttributeError"),
        ("no_module", "made a int"),
    ],
)
def test_a_factory_that_does_not_work_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"mine.*:{name}.*{message}"):
        load(spec("python", architecture=f"{__name__}:{name}"), CPU)


def test_timms_models_take_the_operators_weights_and_timms_preprocessing(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    module = timm.create_model("test_vit", num_classes=10)
    safetensors.torch.save_file(module.state_dict(), tmp_path / "w.safetensors")

    model = load(spec("timm", architecture="test_vit", weights=tmp_path / "w.safetensors", preprocessing=None), CPU)

    wanted = Preprocessing(
        resize=168, crop=(160, 160), interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert model.preprocessing == wanted
    assert model.supports == {"attention", "gradients", "operations"}


def test_without_a_network_timms_weights_are_missing_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(WeightsUnavailable, match=r"mine: timm's weights of test_vit cannot be had.*`weights`"):
        load(spec("timm", architecture="test_vit"), CPU)


def test_a_model_that_timm_lacks_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="timm has no model 'vit_huge'"):
        load(spec("timm", architecture="vit_huge"), CPU)


def saved_transformers(folder: Path) -> Any:
    from transformers import ViTImageProcessor

    inner: Any = of_transformers().module.inner
    inner.config.id2label = dict(enumerate(LABELS))
    inner.save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return inner


def test_transformers_folders_bring_their_labels_and_preprocessing(tmp_path: Path) -> None:
    inner = saved_transformers(tmp_path / "vit")
    (tmp_path / "models.toml").write_text("[[models]]\nname='mine'\nloader='transformers'\narchitecture='vit'\n")
    known = load_catalogue(tmp_path / "models.toml").model("mine")

    model = load(known.spec, CPU)

    assert (known.labels, known.supports, model.labels) == (LABELS, None, LABELS)
    assert model.preprocessing == Preprocessing(
        resize=(64, 64), crop=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert model.supports == {"attention", "gradients", "operations"}
    with torch.no_grad():
        torch.testing.assert_close(model.module(photos(2)), inner(photos(2)).logits)


@pytest.mark.parametrize(
    ("problem_type", "head"),
    [
        ("single_label_classification", Head("softmax")),
        ("multi_label_classification", Head("sigmoid")),
        ("regression", Head("none", "values")),
    ],
)
def test_a_transformers_folder_says_what_its_outputs_are(tmp_path: Path, problem_type: str, head: Head) -> None:
    saved_transformers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "problem_type": problem_type}))

    assert load(spec("transformers", architecture=str(tmp_path)), CPU).head == head


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"id2label": {"0": "a", "1": "b", "10": "c"}}, r"does not number the classes in `id2label` from 0"),
        ({"id2label": {"a": "0"}}, r"no class names in `id2label`"),
        ({"id2label": None}, r"no class names in `id2label`"),
    ],
)
def test_a_folder_that_names_no_classes_is_refused_by_name(tmp_path: Path, edit: dict[str, Any], says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(edit))

    with pytest.raises(ModelUnavailable, match=f"model mine: .*{says}"):
        load(spec("transformers", architecture=str(tmp_path), labels=None), CPU)


def test_a_folder_that_only_counts_its_classes_has_the_names_that_transformers_gives_them(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"id2label": None, "num_labels": 3}))

    assert config_labels(config) == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize("content", [None, "{", "{}", '["a", 1]', "[]"])
def test_a_file_of_labels_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "names.json").write_text(content)

    with pytest.raises(ModelUnavailable, match=r"model mine: labels .*names\.json"):
        load(spec("timm", architecture="test_vit", labels=tmp_path / "names.json"), CPU)


def test_a_transformers_folder_that_asks_for_tuples_is_explained_all_the_same(tmp_path: Path) -> None:
    inner = saved_transformers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    edit = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    (tmp_path / "config.json").write_text(json.dumps({**config, **edit}))

    model = load(spec("transformers", architecture=str(tmp_path)), CPU)

    with torch.no_grad():
        torch.testing.assert_close(model.module(photos(2)), inner(photos(2)).logits)


def test_a_transformers_folder_without_a_head_is_refused_and_not_filled_with_noise(tmp_path: Path) -> None:
    saved_transformers(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del weights["classifier.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(ModelUnavailable, match=r"mine: .* has no weights for classifier\.weight"):
        load(spec("transformers", architecture=str(tmp_path)), CPU)


def test_a_transformers_folder_with_a_pickle_only_is_refused(tmp_path: Path) -> None:
    inner = saved_transformers(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(inner.state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelUnavailable, match=r"mine: transformers cannot load .*model\.safetensors"):
        load(spec("transformers", architecture=str(tmp_path)), CPU)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("loader='torchscript'\nlabels=['a']\nweights='w.pt'", "the loader torchscript needs `sha256`"),
        ("loader='timm'", "the loader timm needs `labels`"),
        ("loader='python'\nlabels=['a']\narchitecture='a:b'", "the loader python needs `preprocessing`"),
        ("loader='transformers'\narchitecture='some/model'", "model mine: give `labels`, or a folder"),
    ],
)
def test_what_a_loader_needs_is_asked_for_when_models_toml_is_read(entry: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(f"[[models]]\nname='mine'\n{entry}\n")

    with pytest.raises(ValueError, match=message):
        load_catalogue(tmp_path / "models.toml")


def test_imagenets_names_need_no_file(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[[models]]\nname='mine'\nloader='timm'\nlabels='imagenet'\n")

    assert load_catalogue(tmp_path / "models.toml").target_index("mine", "espresso") == 967
