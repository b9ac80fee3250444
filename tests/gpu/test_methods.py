"""Every method on an accelerator says what it says on the CPU, up to the arithmetic of the two."""

import copy
from functools import cache

import numpy as np
import pytest
import torch

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import register
from heatmill_workers.models.loading import pick_device, prepare
from tests.workers.small import CPU, LABELS, architecture, photos, small_vit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(pick_device() == CPU, reason="torch finds no accelerator here"),
]
# Of the largest value: convolutions on an accelerator may round to TF32.
TOLERANCE = 2e-2
CHEAP: dict[str, dict[str, object]] = {
    "integrated_gradients": {"steps": 8},
    "gradient_shap": {"samples": 8},
    "lime": {"samples": 50, "segmentation": "grid", "segments": 16},
    "partition_shap": {"max_evals": 50},
}


@cache
def model(device: torch.device, *, attends: bool) -> LoadedModel:
    """The same weights on any device."""
    module = copy.deepcopy(small_vit().module) if attends else architecture("resnet18")
    spec = ModelSpec(name="small", loader="torchvision")
    return prepare(spec, Built(module, Preprocessing(resize=64, crop=64), LABELS), device)


@pytest.mark.parametrize("name", sorted(register()))
def test_a_method_says_the_same_as_on_the_cpu(name: str) -> None:
    attends = "attention" in register()[name].needs
    targets = torch.tensor([3, 1, 4])

    there, here = (
        explain(name, model(device, attends=attends), photos(3), targets, CHEAP.get(name, {}))
        for device in (pick_device(), CPU)
    )

    for ours, theirs in zip(there, here, strict=True):
        assert isinstance(ours, Explanation)
        assert isinstance(theirs, Explanation)
        largest = float(np.abs(theirs.attribution).max())
        np.testing.assert_allclose(ours.attribution, theirs.attribution, atol=TOLERANCE * largest, rtol=0)
        assert ours.verdict == theirs.verdict
