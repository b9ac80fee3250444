"""Models that put hooks on tensors of their own pass, as code for Grad-CAM does: the hooks are left out."""

import pytest
import torch
from torch import Tensor, nn

from tests.workers.models.proof.subjects import PARAMS, Net, maps, noise, proved, seeded


class KeepsGradients(Net):
    """As a well-known text about Grad-CAM has it; torch refuses it where there are no gradients."""

    gradients: Tensor | None = None

    def keep(self, gradient: Tensor) -> None:
        self.gradients = gradient

    def read(self, features: Tensor) -> Tensor:
        features.register_hook(self.keep)  # type: ignore[no-untyped-call]
        return super().read(features)


class KeepsGradientsWhereThereAre(KeepsGradients):
    def read(self, features: Tensor) -> Tensor:
        if not features.requires_grad:
            return Net.read(self, features)
        handle = features.register_hook(self.keep)  # type: ignore[no-untyped-call]
        handle.remove()
        return super().read(features)


class RetainsGradients(Net):
    def read(self, features: Tensor) -> Tensor:
        features.retain_grad()
        return super().read(features)


class ClampedByAHook(Net):
    """Guided ReLU by a hook."""

    def read(self, features: Tensor) -> Tensor:
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient.clamp(min=0))  # type: ignore[no-untyped-call]
        return super().read(features)


@pytest.mark.parametrize("kind", [KeepsGradients, KeepsGradientsWhereThereAre, RetainsGradients, ClampedByAHook])
def test_maps_are_those_of_the_model_without_its_hooks(kind: type[nn.Module]) -> None:
    module = seeded(kind)
    model, plain, images = proved(module), proved(seeded(Net)), noise()

    assert model.facts.tensor_hooks
    for method in PARAMS:
        torch.testing.assert_close(maps(method, model, images), maps(method, plain, images), rtol=1e-4, atol=1e-6)
    assert getattr(module, "gradients", None) is None


def test_a_model_without_hooks_is_called_as_it_is() -> None:
    assert not proved(seeded(Net)).facts.tensor_hooks
