"""A model that writes into its images gets a copy: every method answers as if it did not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from heatmill_workers.shard.predict import predict
from tests.workers.models.proof.subjects import PARAMS, Net, maps, noise, proved, seeded


class Scales(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images.mul_(0.5).add_(0.1))


class ScalesACopy(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images.mul(0.5).add(0.1))


class Clamps(Net):
    def features(self, images: Tensor) -> Tensor:
        torch.clamp_(images, -0.5, 0.5)
        return super().features(images)


class ClampsACopy(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images.clamp(-0.5, 0.5))


class MasksAView(Net):
    """Writes through a view of one channel."""

    def features(self, images: Tensor) -> Tensor:
        images[:, 2].mul_(0)
        return super().features(images)


class MasksACopy(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1))


PAIRS = [(Scales, ScalesACopy), (Clamps, ClampsACopy), (MasksAView, MasksACopy)]


@pytest.mark.parametrize(("writes", "leaves"), PAIRS)
@pytest.mark.parametrize("method", PARAMS)
def test_every_method_answers_as_for_a_model_that_leaves_its_images_alone(
    method: str, writes: Callable[[], nn.Module], leaves: Callable[[], nn.Module]
) -> None:
    model, other, images = proved(seeded(writes)), proved(seeded(leaves)), noise()  # type: ignore[arg-type]
    before = images.clone()

    found, wanted = maps(method, model, images), maps(method, other, images)

    assert model.facts.writes_its_input
    assert not other.facts.writes_its_input
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert torch.equal(images, before)


def test_it_says_the_same_twice() -> None:
    model, images = proved(seeded(Scales)), noise()

    assert torch.equal(predict(model, images), predict(model, images))


def test_a_model_that_writes_nothing_is_handed_its_images_as_they_are() -> None:
    module = seeded(Net)

    assert proved(module).module is module
