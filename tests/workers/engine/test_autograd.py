"""Gradients of chosen logits."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LevitConfig, LevitForImageClassification

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.autograd import differentiating, input_gradients, select, target_logits
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import register
from tests.workers.small import LABELS, loaded, photos, small_resnet, small_vit


class Linear(nn.Module):
    """Logits that are a known matrix times the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(10 * 12, dtype=torch.float32).view(10, 12), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images * 2).flatten(1) @ self.weight.T


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


class Detached(nn.Module):
    """A model as people write it for serving."""

    def __init__(self, module: nn.Module, guard: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__()
        self.module, self.guard = module, guard

    def forward(self, images: Tensor) -> Tensor:
        with self.guard():
            logits: Tensor = self.module(images)
        return logits


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inside", [small_resnet(), small_vit()], ids=["resnet", "vit"])
def test_a_model_without_gradients_is_explained_by_black_boxes_and_refused_by_the_rest(
    inside: LoadedModel, guard: Callable[[], AbstractContextManager[object]]
) -> None:
    model = loaded(Detached(inside.module, guard))
    params: dict[str, dict[str, object]] = {
        "lime": {"samples": 10, "segmentation": "grid"},
        "partition_shap": {"max_evals": 4},
    }

    answers = {name: explain(name, model, photos(1), torch.tensor([0]), params.get(name, {})) for name in register()}

    explained = {name for name, (answer,) in answers.items() if isinstance(answer, Explanation)}
    # DeepLIFT follows what it sees also where autograd was told not to look; nothing can be seen in inference mode.
    assert explained == set(params) | ({"deep_lift", "deep_shap"} if guard is torch.no_grad else set())
    for name in answers.keys() - explained:
        assert isinstance(answers[name][0], UnsupportedOperation), name
        if "gradients" in register()[name].needs:
            assert "the logits have no gradient" in str(answers[name][0])


def test_logits_that_do_not_depend_on_the_image_have_no_multipliers() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.linspace(-3, 3, len(LABELS)).expand(len(images), -1)

    (answer,) = explain("deep_lift", loaded(Constant()), photos(1), torch.tensor([0]), {})

    assert isinstance(answer, UnsupportedOperation)
    assert "the logits have no gradient" in str(answer)


def test_target_logits_have_no_graph() -> None:
    images = photos(2, side=2)

    assert not target_logits(Linear(), images.requires_grad_().clone(), torch.tensor([0, 1])).requires_grad


def levit() -> nn.Module:
    """A small LeViT of transformers, with running statistics that are not trivial."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_labels": len(LABELS),
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "depths": [1, 1, 1],
        "num_attention_heads": [1, 2, 2],
        "key_dim": [8, 8, 8],
        "down_ops": [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]],
    }
    module: nn.Module = LevitForImageClassification(LevitConfig(**shape))
    module.eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(part.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
        elif isinstance(part, (nn.Conv2d, nn.Linear)):
            # The published initialisation lets hardly anything through to the logits.
            nn.init.kaiming_normal_(part.weight)
    return Logits(module)


class Logits(nn.Module):
    """A model of transformers, as its loader wraps it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.module(images).logits
        return out


def test_a_gradient_is_the_same_alone_and_in_a_batch() -> None:
    """Torch's own is wrong here by more than the largest gradient."""
    module, images, targets = levit(), photos(2), torch.tensor([1, 2])

    together = input_gradients(module, images, targets)

    for row in range(2):
        alone = input_gradients(module, images[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5 * float(together.abs().max()))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_one_row_is_torchs(affine: bool) -> None:
    norm = nn.BatchNorm2d(3, affine=affine).eval()
    nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)

    with differentiating():
        found = norm(photos(1))

    torch.testing.assert_close(found, norm(photos(1)))
