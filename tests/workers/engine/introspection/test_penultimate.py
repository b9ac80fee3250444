"""What is caught is what goes into the last layer, and the model does not notice."""

import pytest
import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec
from heatmill_workers.engine.introspection.penultimate import penultimate
from heatmill_workers.models.loaders import bundled
from tests.workers.small import architecture, photos, small_vit


def module_of(name: str) -> nn.Module:
    return architecture(name).eval().requires_grad_(False)


def entering(module: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """What torch's own hook sees."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3")])
def test_it_is_the_input_of_the_last_linear_layer(name: str, head: str) -> None:
    module, images = module_of(name), photos(2)

    seen = penultimate(module, images)

    assert seen.source == "classifier input"
    torch.testing.assert_close(seen.features, entering(module, module.get_submodule(head), images))
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, module(images))
        torch.testing.assert_close(module.get_submodule(head)(seen.features), seen.logits)


def test_of_a_transformer_it_is_the_class_token() -> None:
    module, images = small_vit().module, photos(2)
    seen = penultimate(module, images)
    torch.testing.assert_close(seen.features, entering(module, module.get_submodule("heads.head"), images))
    assert seen.features.shape == (2, 32)


def test_of_the_bundled_model_it_is_what_its_linear_layer_takes() -> None:
    module, images = bundled.build(ModelSpec(name="efficientnet_lite0", loader="bundled")).module.eval(), photos(1, 224)
    seen = penultimate(module, images)
    assert seen.features.shape == (1, 1280)
    torch.testing.assert_close(seen.features, entering(module, module.get_submodule("_fc"), images))


def test_a_classifier_that_is_a_convolution_has_its_input_averaged() -> None:
    module, images = module_of("squeezenet1_1"), photos(2)
    seen = penultimate(module, images)
    assert seen.source == "classifier input"
    expected = entering(module, module.get_submodule("classifier.1"), images).mean((2, 3))
    torch.testing.assert_close(seen.features, expected)
    assert seen.features.shape == (2, 512)


class Bare(nn.Module):
    """No layer at all."""

    def forward(self, images: Tensor) -> Tensor:
        """Mean colours."""
        return images.mean((2, 3))


def test_a_model_without_a_last_layer_gives_its_logits() -> None:
    seen = penultimate(Bare(), photos(2))
    assert seen.source == "logits"
    assert seen.features is not None
    torch.testing.assert_close(seen.features, seen.logits)


def test_images_do_not_depend_on_their_batch() -> None:
    module, images = module_of("resnet18"), photos(3)
    together = penultimate(module, images).features
    alone = torch.cat([penultimate(module, image[None]).features for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
