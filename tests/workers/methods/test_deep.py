"""DeepLIFT and deep SHAP on stock architectures: complete, and equal to the libraries where those are right."""

from dataclasses import replace

import numpy as np
import pytest
import shap
import torch
from torch import Tensor, nn

from heatmill.errors import ImageNotFound, ItemError
from heatmill_workers.engine.baselines import background
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.small import architecture, loaded, photos, small_resnet, small_vit

TARGETS = torch.tensor([3, 7, 0])
# The rest of the table is made by `python -m benchmarks.completeness`.
ARCHITECTURES = ["densenet121", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t"]


def explained(method: str, model: LoadedModel, images: Tensor, **params: object) -> list[Explanation]:
    entries = explain(method, model, images, TARGETS[: len(images)], params)
    assert all(isinstance(entry, Explanation) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Explanation)]


def calibrated(name: str) -> LoadedModel:
    """Random weights, batch norm's statistics measured, and a head scaled so that images have different logits."""
    module = architecture(name)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    with torch.no_grad():
        module.train()(photos(8))
        module.eval()
        spread = (module(photos(1)) - module(torch.zeros_like(photos(1)))).abs().max()
        heads = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
        heads[-1].weight.mul_(2 / spread)
    return loaded(module)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("baseline", ["mean", "blur"])
def test_deep_lift_is_complete_on_stock_architectures(name: str, baseline: str) -> None:
    model = calibrated(name)

    for entry in explained("deep_lift", model, photos(2), baseline=baseline):
        change = abs(float(entry.checks["logit_difference"]))
        assert float(entry.checks["completeness_error"]) * max(change, 0.01) < 0.01 * max(change, 0.1)


@pytest.mark.parametrize("model", [small_resnet(), small_vit()], ids=["resnet18", "vit"])
def test_deep_shap_is_the_mean_of_deep_lift_over_its_background(model: LoadedModel) -> None:
    names = ("mean", "white", "blur")
    each = [explained("deep_lift", model, photos(2), baseline=name) for name in names]

    for row, entry in enumerate(explained("deep_shap", model, photos(2), background=names)):
        wanted = np.mean([entries[row].attribution for entries in each], axis=0)
        np.testing.assert_allclose(entry.attribution, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())
        assert entry.checks["background"] == 3
        assert float(entry.checks["completeness_error"]) < 1e-2


@pytest.mark.parametrize("method", ["deep_shap", "gradient_shap"])
@pytest.mark.parametrize("others", [(), ("blur",)], ids=["shared by all images", "beside one of the image's own"])
def test_an_image_of_the_background_set_does_what_a_plain_one_does(method: str, others: tuple[str, ...]) -> None:
    uri = "s3://sets/black.png"
    black = background(small_resnet(), photos(1), ["black"])[0][0]
    model = replace(small_resnet(), pictures={uri: black})

    found = explained(method, model, photos(2), background=(uri, *others))

    for entry, wanted in zip(found, explained(method, model, photos(2), background=("black", *others)), strict=True):
        np.testing.assert_array_equal(entry.attribution, wanted.attribution)
        assert entry.checks == wanted.checks


def test_a_background_image_of_the_wrong_size_or_that_is_not_there_is_named() -> None:
    wrong: dict[str, Tensor | ItemError] = {
        "s3://sets/1.png": photos(1, side=32)[0],
        "s3://sets/2.png": ImageNotFound("nothing lies there"),
    }
    model = replace(small_resnet(), pictures=wrong)

    def errors(uri: str) -> list[str]:
        return [str(error) for error in explain("deep_shap", model, photos(2), TARGETS[:2], {"background": [uri]})]

    assert (
        errors("s3://sets/1.png")
        == ["the background image s3://sets/1.png is of shape (3, 32, 32); wanted (3, 64, 64)"] * 2
    )
    assert errors("s3://sets/2.png") == ["background image: nothing lies there"] * 2
    assert errors("s3://sets/3.png") == ["the background image s3://sets/3.png is missing; wanted (3, 64, 64)"] * 2


def test_deep_shap_is_shaps_on_a_network_that_shap_gets_right() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(676, 10),
    )
    images, baselines = photos(2), 0.5 * photos(3, seed=1)
    # Pictures, since in blank baselines shap takes the first of a window's equal entries.
    uris = tuple(f"s3://sets/{number}.png" for number in range(3))
    model = replace(loaded(module), pictures=dict(zip(uris, baselines, strict=True)))
    found = explained("deep_shap", model, images, background=uris)

    for parameter in module.parameters():
        parameter.requires_grad_()
    wanted = shap.DeepExplainer(module, baselines).shap_values(images.requires_grad_(), check_additivity=False)

    for row, entry in enumerate(found):
        np.testing.assert_allclose(entry.attribution, wanted[row, ..., TARGETS[row]], rtol=1e-3, atol=1e-5)


def test_a_model_with_its_own_arithmetic_is_explained_or_refused_by_the_name_of_what_it_computes() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.head(images.mean((1, 2)).sort(1).values)
            return out

    errors = explain("deep_lift", loaded(Sorted()), photos(2), TARGETS[:2], {})

    assert all("`sort`" in str(error) for error in errors)
