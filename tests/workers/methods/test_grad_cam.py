"""Grad-CAM agrees with captum and with pytorch-grad-cam, and with the closed form where there is one."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from tests.workers.small import architecture, loaded, photos, small_resnet

TARGETS = torch.tensor([3, 7])
# At 128 pixels the last map is 4 x 4, enough to see a transposed or shifted one.
SIDE = 128


def maps(model: LoadedModel) -> NDArray[np.float32]:
    entries = explain("grad_cam", model, photos(2, SIDE), TARGETS, {})
    assert all(isinstance(entry, Explanation) for entry in entries)
    return np.stack([entry.attribution for entry in entries if isinstance(entry, Explanation)])


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_it_is_captums(layer: str) -> None:
    model = loaded(architecture("resnet18"), SIDE, None if layer == "layer4" else layer)
    captum = LayerGradCam(model.module, model.module.get_submodule(layer))

    wanted = captum.attribute(photos(2, SIDE).requires_grad_(), TARGETS, relu_attributions=True).detach().numpy()

    assert maps(model).shape == wanted.shape
    np.testing.assert_allclose(maps(model), wanted, rtol=1e-4, atol=1e-5 * wanted.max())


def test_it_is_pytorch_grad_cams_up_to_its_scaling() -> None:
    model = loaded(architecture("resnet18"), SIDE)
    images = photos(2, SIDE)

    # It needs parameters that are not frozen.
    trainable = architecture("resnet18").eval()
    with GradCAM(trainable, [trainable.get_submodule("layer4")]) as theirs:
        wanted = theirs(images, [ClassifierOutputTarget(int(target)) for target in TARGETS])

    ours = scale_cam_image(scale_cam_image(maps(model)[:, 0], (SIDE, SIDE)))
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_under_average_pooling_it_is_the_classes_weights_on_the_map() -> None:
    """Selvaraju et al. 2017, section 3.1: for such heads Grad-CAM is CAM."""
    model, images = loaded(architecture("resnet18"), SIDE), photos(2, SIDE)
    trunk = torch.nn.Sequential(*list(model.module.children())[:-2])

    features = trunk(images)
    weights = model.module.get_parameter("fc.weight")[TARGETS]
    positions = features.shape[2] * features.shape[3]
    wanted = torch.einsum("nk,nkhw->nhw", weights, features).relu() / positions

    np.testing.assert_allclose(maps(model)[:, 0], wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_it_has_one_channel_at_the_layers_own_resolution_and_is_not_negative() -> None:
    attributions = maps(loaded(architecture("resnet18"), SIDE))

    assert attributions.shape == (2, 1, 4, 4)
    assert attributions.min() >= 0


def test_where_nothing_speaks_for_the_class_the_map_is_blank() -> None:
    module = architecture("resnet18")
    with torch.no_grad():
        # The last map is not negative, so that this class has no evidence anywhere.
        module.get_parameter("fc.weight")[3] = -1

    against, other = explain("grad_cam", loaded(module, SIDE), photos(2, SIDE), TARGETS, {})

    assert isinstance(against, Explanation)
    assert isinstance(other, Explanation)
    assert not against.attribution.any()
    assert against.verdict == "blank"
    assert other.verdict is None


def test_the_cost_is_one_pass_of_the_trunk() -> None:
    """No node of the trunk is in the graph, so what is kept between the passes is the map alone."""
    model, kept = small_resnet(), list[int]()

    def note(saved: torch.Tensor) -> torch.Tensor:
        kept.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        explain("grad_cam", model, photos(2), TARGETS, {})

    # The trunk's first map alone has 2 x 64 x 32 x 32 values; the head's weights are 10 x 512.
    assert 0 < sum(kept) < 2 * 64 * 32 * 32


class ReadsContrast(nn.Module):
    """Reads how much each map varies: the gradients at a map's positions sum to nothing but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(images).relu().std((2, 3)))
        return logits


def test_a_mean_that_is_only_rounding_is_no_evidence() -> None:
    torch.manual_seed(0)
    entries = explain("grad_cam", loaded(ReadsContrast().eval()), photos(2), TARGETS, {})

    for entry in entries:
        assert isinstance(entry, Explanation)
        assert (bool(entry.attribution.any()), str(entry.verdict)) == (False, "blank")
