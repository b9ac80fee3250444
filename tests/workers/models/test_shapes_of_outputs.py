"""Outputs that are logits of each image, and no matrix: what `squeeze()` and networks of convolutions leave."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from heatmill.errors import ModelUnavailable
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.models.proof.runs import reader
from tests.workers.models.proof.subjects import PARAMS, Net, maps, noise, proved, seeded


class Shaped(Net):
    """One that puts its logits out in another shape."""

    shape: Callable[[Tensor], Tensor]
    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, self.classes)

    def forward(self, images: Tensor) -> Tensor:
        return type(self).shape(super().forward(images))


class SqueezesFeatures(Shaped):
    """Drops every dimension of length 1, that of a single image among them."""

    def read(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True).squeeze()


class OneLogit(Shaped):
    classes = 1


def shaped(kind: type[Shaped], shape: Callable[[Tensor], Tensor]) -> LoadedModel:
    labels = {"labels": ("square",)} if kind is OneLogit else {}
    return proved(seeded(type("Mine", (kind,), {"shape": staticmethod(shape)})), **labels)


SHAPES: dict[str, tuple[type[Shaped], Callable[[Tensor], Tensor]]] = {
    "squeeze() of features": (SqueezesFeatures, torch.clone),
    "squeeze() of several classes": (Shaped, lambda z: z.squeeze()),
    "maps of one cell": (Shaped, lambda z: z[:, :, None, None]),
    "squeeze(1) of one logit": (OneLogit, lambda z: z.squeeze(1)),
    "squeeze() of one logit": (OneLogit, lambda z: z.squeeze()),
    "the sigmoid of one logit": (OneLogit, lambda z: torch.sigmoid(z)[:, 0]),
}


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_another_shape_are_explained_as_those_of_a_matrix(name: str, images: int) -> None:
    kind, shape = SHAPES[name]
    plain = OneLogit if kind is OneLogit else Shaped
    model, wanted, photos = shaped(kind, shape), shaped(plain, torch.clone), noise(images)
    for method in PARAMS:
        found, right = maps(method, model, photos), maps(method, wanted, photos)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 4), (1, 2, 3), ()])
def test_what_is_no_row_for_each_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelUnavailable, match=r"wanted are logits \(N, classes\)"):
        reader("mine", None)(torch.zeros(shape), 2)
