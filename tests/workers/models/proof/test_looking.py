"""What is looked at while a model is proved does not raise, whatever kinds of tensors the model computes with."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill_workers.engine.head import Head
from heatmill_workers.models.proof.ranges import Ranges
from tests.workers.models.proof.subjects import Net, proved, seeded


class Mapped(Net):
    """Weighs its features image by image, by `vmap`."""

    def read(self, features: Tensor) -> Tensor:
        weights = torch.linspace(0.1, 1, 8)
        directions = functional.normalize(torch.eye(8))
        mapped: Tensor = torch.vmap(lambda one: (one.mean((1, 2)) * weights * torch.ones(8)) @ directions)(features)
        return mapped


class Larger(Net):
    def read(self, features: Tensor) -> Tensor:
        means = features.mean((2, 3))
        return torch.max(means, 0.1 * means)


class Sparse(Net):
    def read(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) + (torch.eye(8).to_sparse() * 2).to_dense()[0]


class Nested(Net):
    def read(self, features: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # torch says that they are a prototype.
            warnings.simplefilter("ignore")
            nested = torch.nested.nested_tensor(list(features.mean((2, 3))))
            padded: Tensor = torch.nested.to_padded_tensor(nested * 2.0, 0.0)
            return padded


@pytest.mark.parametrize("kind", [Mapped, Larger, Sparse, Nested])
def test_a_model_with_tensors_of_other_kinds_loads(kind: type[nn.Module]) -> None:
    assert proved(seeded(kind)).head == Head()


def test_what_leaves_vmap_is_no_constant() -> None:
    images = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with Ranges(images) as ranges:
        mapped = torch.vmap(lambda one: one * 0.1)(images)
        found = images.sigmoid() * mapped

    assert ranges.of(found) is None
