"""A model's outputs must not depend on the images that it saw first; what nothing depends on may be kept."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from tests.workers.models.proof.subjects import Net, maps, noise, proved, seeded

OF_THE_FILE: dict[str, Tensor] = {}


class InAnAttribute(Net):
    """Centres by the mean of the first batch."""

    mean: Tensor | None = None

    def forward(self, images: Tensor) -> Any:
        if self.mean is None:
            self.mean = images.mean((0, 2, 3), keepdim=True)
        return super().forward(images - self.mean)


class InAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.bank: list[Tensor] = []

    def read(self, features: Tensor) -> Tensor:
        found = super().read(features)
        if not self.bank:
            self.bank.append(found.detach().mean(0))
        return found - self.bank[0]


class BySize(Net):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, dict[Any, Tensor]] = {"largest": {}}

    def forward(self, images: Tensor) -> Any:
        largest = self.cache["largest"].setdefault(images.shape[2:], images.detach().amax())
        return super().forward(images / (largest.abs() + 1))


class InItsClass(Net):
    kept: dict[str, Tensor] = {}  # noqa: RUF012 - what is tested

    def forward(self, images: Tensor) -> Any:
        return super().forward(images - self.kept.setdefault("mean", images.detach().mean()))


class InItsFile(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images - OF_THE_FILE.setdefault("mean", images.detach().mean()))


@pytest.mark.parametrize("kind", [InAnAttribute, InAList, BySize, InItsClass, InItsFile])
def test_a_model_that_depends_on_what_it_saw_first_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ModelRefused, match="keeps something of the images that it sees first"):
        proved(seeded(kind))


class KeepsItsMaps(Net):
    """As code for Grad-CAM does, and positions that are the same for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        self.positions: dict[Any, Tensor] = {}

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        self.last, self.maps = found, [*self.maps[-2:], found.detach()]
        size = found.shape[2:]
        if size not in self.positions:
            self.positions[size] = torch.linspace(0, 1, size[1])
        return found + self.positions[size]


def test_what_no_output_depends_on_may_be_kept() -> None:
    model = proved(seeded(KeepsItsMaps))

    assert maps("saliency", model, noise()).isfinite().all()
