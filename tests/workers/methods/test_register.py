"""What holds for every method in the register."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.errors import (
    UnsupportedOperation,
)
from heatmill_workers import export
from heatmill_workers import methods as explainers
from heatmill_workers.engine.batching import BatchSizes
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import register
from tests.workers.small import CPU, photos, small_resnet, small_vit

METHODS = sorted(register())
# Methods whose cost has a knob run with few steps here.
QUICK: dict[str, dict[str, Any]] = {
    "deep_shap": {"background": ["mean", "white"]},
    "gradient_shap": {"samples": 4},
    "integrated_gradients": {"steps": 4},
    "lime": {"samples": 40, "segmentation": "grid", "segments": 9},
    "partition_shap": {"max_evals": 30},
}
# Of the largest value. A batch of another size rounds differently, and where a value is nearly zero a ReLU then opens
# or closes: the gradient there jumps.
ROUNDING = 1e-4
JUMPS = {"gradient_shap": 5e-3}
# Attention alone is the same for every class.
OF_NO_CLASS = {"attention", "attention_rollout"}
TARGETS = torch.tensor([3, 7, 0])


def model_for(method: str) -> LoadedModel:
    """One that has what the method needs."""
    return small_vit() if "attention" in register()[method].needs else small_resnet()


def quick(method: str, model: LoadedModel, images: Tensor, targets: Tensor) -> list[Explanation]:
    entries = explain(method, model, images, targets, QUICK.get(method, {}))
    assert all(isinstance(entry, Explanation) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Explanation)]


def state_of(module: nn.Module) -> dict[str, object]:
    """Everything that an explainer could leave on a model."""
    return {
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "attributes": [sorted(each.__dict__) for each in module.modules()],
        "hooks": [len(each._forward_hooks) + len(each._backward_hooks) for each in module.modules()],
        "pre-hooks": [len(each._forward_pre_hooks) + len(each._backward_pre_hooks) for each in module.modules()],
        "training": [each.training for each in module.modules()],
        "parameters": [(parameter.requires_grad, parameter.grad) for parameter in module.parameters()],
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    assert before["weights"].keys() == after["weights"].keys()
    assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())
    for name in before.keys() - {"weights"}:
        assert before[name] == after[name], name


@pytest.mark.parametrize("method", METHODS)
def test_a_file_holds_the_method_of_its_name_and_says_what_it_is(method: str) -> None:
    known = register()[method]

    assert Path(explainers.__path__[0], f"{method}.py").exists()
    assert known.name == method
    assert known.title
    assert known.summary


@pytest.mark.parametrize("method", METHODS)
def test_params_are_frozen_closed_and_described(method: str) -> None:
    params = register()[method].params

    assert params.model_config.get("frozen")
    with pytest.raises(ValidationError):
        params.model_validate({"no_such_param": 1})
    schema = params.model_json_schema()
    assert all("description" in field and "default" in field for field in schema["properties"].values())
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("method", METHODS)
def test_it_answers_in_the_documented_shape(method: str) -> None:
    for entry in quick(method, model_for(method), photos(3), TARGETS):
        channels, height, width = entry.attribution.shape
        assert channels in {1, 3}
        assert height <= 64
        assert width <= 64
        assert entry.attribution.dtype == np.float32
        assert np.isfinite(entry.attribution).all()
        assert np.abs(entry.attribution).max() > 0
        assert entry.picture == register()[method].picture


@pytest.mark.parametrize("method", METHODS)
def test_an_image_does_not_depend_on_its_batch_mates(method: str) -> None:
    images = photos(3)
    together = quick(method, model_for(method), images, TARGETS)

    for row, entry in enumerate(together):
        (alone,) = quick(method, model_for(method), images[row : row + 1], TARGETS[row : row + 1])
        scale = np.abs(alone.attribution).max()
        np.testing.assert_allclose(entry.attribution, alone.attribution, atol=JUMPS.get(method, ROUNDING) * scale)
        assert entry.checks.keys() == alone.checks.keys()
        for name, value in entry.checks.items():
            wanted = alone.checks[name]
            assert value == (wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=1e-2, abs=1e-5))


@pytest.mark.parametrize("method", METHODS)
def test_the_size_of_a_batch_does_not_matter(method: str) -> None:
    images = photos(3)
    in_ones = replace(model_for(method), batch_sizes=BatchSizes(CPU, 1))

    for packed, single in zip(
        quick(method, model_for(method), images, TARGETS), quick(method, in_ones, images, TARGETS), strict=True
    ):
        scale = np.abs(single.attribution).max()
        np.testing.assert_allclose(packed.attribution, single.attribution, atol=JUMPS.get(method, ROUNDING) * scale)


@pytest.mark.parametrize("method", sorted({*METHODS} - OF_NO_CLASS))
def test_each_target_is_explained_not_the_first(method: str) -> None:
    image = photos(1).expand(2, -1, -1, -1)

    one, other = quick(method, model_for(method), image, torch.tensor([3, 7]))

    assert not np.allclose(one.attribution, other.attribution)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method: str) -> None:
    model, images = model_for(method), photos(3)
    before, kept = state_of(model.module), images.clone()

    quick(method, model, images, TARGETS)

    assert_same_state(before, state_of(model.module))
    assert torch.equal(images, kept)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


class Fails(nn.Module):
    """A classifier that breaks in the middle of its third forward pass, after two that the loader makes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        self.inner(images)
        raise ZeroDivisionError


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was_after_an_exception(method: str) -> None:
    model = replace(model_for(method), module=Fails(model_for(method).module).eval())
    before = state_of(model.module)

    if method in {"deep_lift", "deep_shap"}:
        # They run the model on pairs: what it raises there says that they cannot follow it.
        refused = explain(method, model, photos(3), TARGETS, QUICK.get(method, {}))
        assert all(isinstance(each, UnsupportedOperation) and "ZeroDivisionError" in str(each) for each in refused)
    else:
        with pytest.raises(ZeroDivisionError):
            quick(method, model, photos(3), TARGETS)

    assert_same_state(before, state_of(model.module))
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("method", METHODS)
def test_two_threads_may_explain_with_one_model(method: str) -> None:
    model, batches = model_for(method), [photos(2, seed=seed) for seed in range(6)]
    targets = torch.tensor([1, 8])
    alone = [quick(method, model, images, targets) for images in batches]

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda images: quick(method, model, images, targets), batches))

    for entries, wanted in zip(together, alone, strict=True):
        for entry, want in zip(entries, wanted, strict=True):
            np.testing.assert_allclose(entry.attribution, want.attribution, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_no_images_are_no_answers(method: str) -> None:
    assert explain(method, model_for(method), photos(0), torch.empty(0, dtype=torch.int64), {}) == []


@pytest.mark.parametrize("model", [small_vit(), small_resnet()], ids=["vit", "resnet"])
@pytest.mark.parametrize("method", METHODS)
def test_every_need_is_refused_where_it_is_not_met(method: str, model: LoadedModel) -> None:
    entries = explain(method, model, photos(2), TARGETS[:2], QUICK.get(method, {}))

    if set(register()[method].needs) <= model.supports:
        assert all(isinstance(entry, Explanation) for entry in entries)
        return
    assert [type(entry) for entry in entries] == [UnsupportedOperation] * 2
    assert "small" in str(entries[0])


def test_methods_come_from_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_method.py").write_text(
        '"""Zeros."""\n'
        "import torch\nfrom pydantic import BaseModel\n\nfrom heatmill.catalogue.methods import MethodCost\n"
        "from heatmill_workers.methods.contract import MethodOutput, method\n\n"
        "class Params(BaseModel):\n    pass\n\n"
        '@method(Params, picture="signed", passes=MethodCost(1, {}))\n'
        'def zeros(model, images, targets, params):\n    """Nothing."""\n'
        "    return MethodOutput(torch.zeros(len(images), 1, 2, 2))\n"
    )
    (tmp_path / "other-1.dist-info").mkdir()
    (tmp_path / "other-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (tmp_path / "other-1.dist-info" / "entry_points.txt").write_text(
        "[heatmill.explainers]\nzeros = other_method:zeros\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "methods.json")])
    register.cache_clear()
    try:
        assert set(register()) == {*METHODS, "zeros"}
        (entry,) = explain("zeros", small_resnet(), photos(1), TARGETS[:1], {})
        export.main()
    finally:
        register.cache_clear()
    assert isinstance(entry, Explanation)
    assert entry.attribution.sum() == 0
    offered = load_catalogue(methods_file=tmp_path / "methods.json")
    assert {method.name for method in offered.methods} == {*METHODS, "zeros"}
    assert offered.resolve_params("zeros", {}) == {}
