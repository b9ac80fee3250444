"""Gradients of chosen logits."""

import torch
from torch import Tensor, nn

from heatmill_workers.engine.gradients import input_gradients, select, target_logits
from tests.workers.small import photos


class Linear(nn.Module):
    """Logits that are a known matrix times the image; in place on its input, as some models are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(10 * 12, dtype=torch.float32).view(10, 12), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.mul_(2).flatten(1) @ self.weight.T


def test_the_gradient_of_a_linear_model_is_its_weights() -> None:
    module, targets = Linear(), torch.tensor([3, 7])

    gradients = input_gradients(module, photos(2, side=2), targets)

    assert torch.equal(gradients, 2 * module.weight[targets].view(2, 3, 2, 2))


def test_each_row_has_its_own_target() -> None:
    logits = torch.arange(20.0).view(2, 10)

    assert select(logits, torch.tensor([1, 9])).tolist() == [1, 19]


def test_it_works_where_gradients_are_switched_off_and_leaves_the_images_alone() -> None:
    images = photos(2, side=2)
    before = images.clone()

    with torch.no_grad():
        gradients = input_gradients(Linear(), images, torch.tensor([0, 1]))

    assert not gradients.requires_grad
    assert not images.requires_grad
    assert torch.equal(images, before)


def test_target_logits_have_no_graph() -> None:
    images = photos(2, side=2)

    assert not target_logits(Linear(), images.requires_grad_().clone(), torch.tensor([0, 1])).requires_grad
