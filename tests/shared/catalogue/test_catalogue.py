"""What can be asked for, and what a wrong request is told."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heatmill.catalogue.catalogue import Catalogue, load_catalogue
from heatmill.catalogue.methods import MethodCost
from heatmill.catalogue.models import BUNDLED_MODEL
from heatmill.errors import InvalidRequest, MethodNotSupported, UnknownMethod, UnknownModel

STOCK = load_catalogue()


def with_models(folder: Path, text: str) -> Catalogue:
    path = folder / "models.toml"
    path.write_text(text)
    return load_catalogue(path)


def test_loading_it_needs_no_torch() -> None:
    code = "import sys; from heatmill.catalogue.catalogue import load_catalogue; load_catalogue(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"torch", "torchvision", "numpy"} & set(loaded)


def test_methods_and_models_are_sorted_by_name() -> None:
    methods, models = [method.name for method in STOCK.methods], [model.name for model in STOCK.models]

    assert methods == sorted(methods)
    assert models == sorted(models)
    assert {"saliency", "integrated_gradients", "grad_cam"} <= set(methods)
    assert {"efficientnet_lite0", "resnet50", "vit_b_16"} <= set(models)


def test_the_bundled_model_is_described() -> None:
    model = STOCK.model(BUNDLED_MODEL)

    assert (model.spec.loader, model.input_size, len(model.labels)) == ("bundled", (224, 224), 1000)
    assert model.supports == frozenset({"gradients", "spatial layer", "operations"})


def test_an_unknown_method_is_told_the_closest() -> None:
    with pytest.raises(UnknownMethod, match="'gradcam'; the closest are grad_cam"):
        STOCK.method("gradcam")


def test_an_unknown_model_is_told_the_closest_ten_at_most() -> None:
    with pytest.raises(UnknownModel, match="'resnet-50'; the closest are resnet50, ") as caught:
        STOCK.model("resnet-50")

    assert str(caught.value).count(",") < 10


def test_a_model_like_none_is_told_some_and_how_many_more() -> None:
    with pytest.raises(UnknownModel, match=rf"there are alexnet, .* and {len(STOCK.models) - 10} more"):
        STOCK.model("?")


def test_defaults_are_filled_in() -> None:
    defaults = {"baseline": "mean", "max_error": None, "max_steps": 800, "steps": 50}
    assert STOCK.resolve_params("integrated_gradients", {}) == defaults
    assert STOCK.resolve_params("integrated_gradients", {"steps": 7}) == {**defaults, "steps": 7}
    assert STOCK.resolve_params("saliency", {}) == {}


def test_a_models_own_baseline_stands_where_the_job_names_none(tmp_path: Path) -> None:
    entry = "[[models]]\nname='{}'\nloader='torchvision'\narchitecture='resnet18'\n"
    catalogue = with_models(tmp_path, f"{entry.format('a')}baseline='white'\n{entry.format('b')}background=['blur']\n")
    defaults = catalogue.model("a").defaults

    def resolved(method: str, name: str, **params: str) -> object:
        return STOCK.resolve_params(method, params, defaults)[name]

    assert resolved("integrated_gradients", "baseline") == resolved("deep_lift", "baseline") == "white"
    assert resolved("partition_shap", "masker") == "white"
    assert resolved("deep_lift", "baseline", baseline="mean") == "mean"
    assert resolved("lime", "hide") == "mean"
    assert catalogue.model("b").defaults == {"background": ["blur"]}


def test_a_methods_own_param_of_the_same_name_is_left_alone() -> None:
    number = {"type": "object", "properties": {"baseline": {"type": "number", "default": 0.5}}}
    method = replace(STOCK.method("saliency"), name="own", params=number)

    assert Catalogue((method,), ()).resolve_params("own", {}, {"baseline": "black"}) == {"baseline": 0.5}


def test_digits_are_compared_with_black_paper_and_an_operators_digits_too(tmp_path: Path) -> None:
    entry = "[[models]]\nname='{}'\nloader='bundled'\narchitecture='digits_vit'\n"
    catalogue = with_models(tmp_path, f"{entry.format('mine')}{entry.format('grey')}baseline='mean'\n")

    baselines = [catalogue.model(name).defaults["baseline"] for name in ("digits_vit", "mine", "grey")]
    assert baselines == ["black", "black", "mean"]


def test_a_models_own_background_stands_where_the_job_names_none(tmp_path: Path) -> None:
    entry = "[[models]]\nname='{}'\nloader='bundled'\narchitecture='digits_vit'\n"
    (tmp_path / "models.toml").write_text(f"{entry.format('a')}{entry.format('b')}background=['black']\n")
    catalogue = load_catalogue(tmp_path / "models.toml")
    plain, model = catalogue.model("a"), catalogue.model("b")

    assert STOCK.resolve_params("deep_shap", {}, plain.defaults) == {"background": ["mean", "black", "white", "blur"]}
    assert STOCK.resolve_params("deep_shap", {}, model.defaults) == {"background": ["black"]}
    assert STOCK.resolve_params("deep_shap", {"background": ["blur"]}, model.defaults) == {"background": ["blur"]}
    assert STOCK.resolve_params("saliency", {}, model.defaults) == {}


def test_a_whole_number_has_one_spelling() -> None:
    assert repr(STOCK.resolve_params("integrated_gradients", {"steps": 50.0})["steps"]) == "50"


@pytest.mark.parametrize(
    ("params", "pointer", "detail"),
    [
        ({"steps": 0}, "/steps", "steps: 0 is less than the minimum of 1"),
        ({"steps": 1001}, "/steps", "steps: 1001 is greater than the maximum of 1000"),
        ({"steps": "many"}, "/steps", "steps: 'many' is not of type 'integer'"),
        ({"steps": True}, "/steps", "steps: True is not of type 'integer'"),
        ({"baseline": "grey"}, "/baseline", "baseline: 'grey' is not one of ['mean', 'black', 'white', 'blur']"),
        ({"max_error": 0}, "/max_error", "max_error: 0 is less than or equal to the minimum of 0"),
        (
            {"max_error": "x"},
            "/max_error",
            "max_error: 'x' is not of type 'number', and 'x' is not of type 'null'",
        ),
        ({"a/b": 1}, "/a~1b", "unknown param 'a/b'; the params are: baseline, max_error, max_steps, steps"),
    ],
)
def test_a_wrong_param_is_pointed_at(params: dict[str, Any], pointer: str, detail: str) -> None:
    with pytest.raises(InvalidRequest, match="params of integrated_gradients") as caught:
        STOCK.resolve_params("integrated_gradients", params)

    assert caught.value.errors == [{"pointer": pointer, "detail": detail}]


@pytest.mark.parametrize("content", ["", '{"a": 1}', "[1]", '[{"name": "zeros"}]'])
def test_a_file_of_methods_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "methods.json").write_text(content)

    with pytest.raises(ValueError, match=r"methods\.json is no file of methods"):
        load_catalogue(methods_file=tmp_path / "methods.json")


def test_a_wrong_background_is_told_what_there_is() -> None:
    with pytest.raises(InvalidRequest) as caught:
        STOCK.resolve_params("deep_shap", {"background": ["mean", "grey"]})

    detail = "background/1: 'grey' is not mean, black, white, blur, or an image's upload:// or s3:// URI"
    assert caught.value.errors == [{"pointer": "/background/1", "detail": detail}]


def test_every_wrong_param_is_pointed_at() -> None:
    with pytest.raises(InvalidRequest) as caught:
        STOCK.resolve_params("integrated_gradients", {"steps": 0, "baseline": "grey"})

    assert [error["pointer"] for error in caught.value.errors] == ["/baseline", "/steps"]


def test_what_a_model_lacks_is_named_and_what_works_too() -> None:
    STOCK.check_supported("vit_b_16", "saliency")
    STOCK.check_supported("resnet50", "grad_cam")

    message = "grad_cam needs a spatial layer, which vit_b_16 does not have; it supports .*attention.*saliency"
    with pytest.raises(MethodNotSupported, match=message):
        STOCK.check_supported("vit_b_16", "grad_cam")


def test_a_target_is_an_index_or_a_label() -> None:
    assert STOCK.target_index("efficientnet_lite0", "espresso") == STOCK.target_index("efficientnet_lite0", 967) == 967


@pytest.mark.parametrize("target", ["cardigan", "no such thing", 1000])
def test_a_wrong_target_names_the_model(target: int | str) -> None:
    with pytest.raises(InvalidRequest, match=r"^efficientnet_lite0: .*; see GET /v1/models/efficientnet_lite0 for all"):
        STOCK.target_index("efficientnet_lite0", target)


def test_cost_grows_with_steps() -> None:
    params = STOCK.resolve_params("integrated_gradients", {"steps": 10})

    assert STOCK.passes("grad_cam", {}) == 1
    assert STOCK.passes("saliency", {}) == 2.5
    assert STOCK.passes("integrated_gradients", params) == 1 + 10 * 2.5
    assert STOCK.passes("deep_shap", {"background": ["mean", "blur"]}) == 1 + 2 * 5


def test_what_is_done_until_an_error_is_met_is_planned_at_its_most() -> None:
    params = STOCK.resolve_params("integrated_gradients", {"steps": 10, "max_error": 0.01, "max_steps": 100})
    cost = STOCK.method("integrated_gradients").passes

    assert cost.estimate(params) == cost.estimate({**params, "steps": 500}) == 1 + 100 * 2.5
    assert not cost.is_fixed(params)
    assert cost.is_fixed({**params, "max_error": None})


def test_an_operators_model_takes_after_its_architecture(tmp_path: Path) -> None:
    catalogue = with_models(
        tmp_path,
        "[[models]]\nname='birds'\nloader='torchvision'\narchitecture='vit_b_16'\nlabels=['wren', 'robin']\n",
    )

    birds = catalogue.model("birds")
    assert (birds.input_size, birds.labels, birds.supports) == (
        (224, 224),
        ("wren", "robin"),
        frozenset({"attention", "gradients", "operations"}),
    )
    assert catalogue.target_index("birds", "robin") == 1
    assert len(catalogue.models) == len(STOCK.models) + 1


def test_a_named_cam_layer_is_a_spatial_layer(tmp_path: Path) -> None:
    catalogue = with_models(
        tmp_path,
        "[[models]]\nname='vit_b_16'\nloader='torchvision'\ncam_layer='conv_proj'\n[models.preprocessing]\ncrop=192\n",
    )

    catalogue.check_supported("vit_b_16", "grad_cam")
    assert catalogue.model("vit_b_16").input_size == (192, 192)
    assert len(catalogue.models) == len(STOCK.models)


@pytest.mark.parametrize("loader", ["bundled", "torchvision"])
def test_an_architecture_that_the_loader_lacks_is_refused_at_once(tmp_path: Path, loader: str) -> None:
    with pytest.raises(ValueError, match=f"no {loader} architecture 'resnet5'"):
        with_models(tmp_path, f"[[models]]\nname='resnet5'\nloader='{loader}'\n")


def test_params_of_an_earlier_version_lack_what_came_later() -> None:
    passes = MethodCost(base=1, per_unit={"samples": 2}, upper_bound={"max_error": {"max_samples": 3}})

    assert passes.estimate({"samples": 10}) == 21
    assert passes.is_fixed({"samples": 10})
