"""Multipliers are complete on everything that breaks hooks, and what has no rule is named."""

import pytest
import torch
from captum.attr import DeepLift
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.multipliers import multipliers
from tests.workers.engine.deeplift.modules import BODIES, Net, layer_norms_without_biases, put_into_a_constant, tokens
from tests.workers.engine.test_autograd import levit
from tests.workers.small import photos

TARGETS = torch.tensor([0, 3, 4])


def batch(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def error(module: nn.Module, images: Tensor, baselines: Tensor) -> float:
    """The largest completeness error of a batch, relative to the logits' change."""
    found, moved = multipliers(module, images, baselines, TARGETS)
    change = (module(images) - module(baselines)).gather(1, TARGETS.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(moved, change, rtol=1e-3, atol=1e-3)
    total = (found * (images - baselines)).double().sum((1, 2, 3))
    return float(((total - change) / change.abs().clamp_min(1e-2)).abs().max())


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("baseline", ["noise", "constant", "near"])
def test_multipliers_times_changes_sum_to_the_change_of_the_logit(name: str, baseline: str) -> None:
    baselines = {"noise": batch(1, 0.5), "constant": torch.zeros(3, 3, 16, 16), "near": batch(0) + batch(1, 1e-3)}

    assert error(BODIES[name], batch(0), baselines[baseline]) < 1e-3


@pytest.mark.parametrize("name", BODIES)
def test_an_image_that_is_its_baseline_has_the_gradient_as_multipliers(name: str) -> None:
    images = batch(0)
    leaf = images.clone().requires_grad_()
    logits = BODIES[name](leaf.clone())
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGETS.unsqueeze(1)).sum(), leaf)

    found, _ = multipliers(BODIES[name], images, images.clone(), TARGETS)

    torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4)


def test_rows_that_are_zero_on_the_baseline_through_many_layer_norms_do_not_blow_up() -> None:
    module = Net(tokens(layer_norms_without_biases))
    nn.init.zeros_(module.stem.bias)  # type: ignore[arg-type]

    assert error(module, batch(0), torch.zeros_like(batch(0))) < 1e-3


@pytest.mark.parametrize("name", ["normalize", "global response norm", "composed rms norm"])
def test_maps_that_are_zero_on_the_baseline_have_lengths_to_divide_by(name: str) -> None:
    module = Net(BODIES[name].body)
    nn.init.zeros_(module.stem.bias)  # type: ignore[arg-type]

    assert error(module, batch(0), torch.zeros_like(batch(0))) < 1e-3


def test_an_inverse_that_is_changed_in_place_is_one_no_more() -> None:
    def changed(maps: Tensor) -> Tensor:
        inverse = torch.rsqrt(maps.square() + 1)
        inverse *= 2
        return maps * inverse

    assert error(Net(changed), batch(0), batch(1)) < 1e-3


def test_on_a_plain_network_it_is_captums() -> None:
    torch.manual_seed(0)
    # captum's max pool is wrong after a ReLU, where a window's change is exactly zero (captum issues 1104 and 1276).
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Sigmoid()]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)).eval()
    images, baselines = batch(0), batch(1)
    with pytest.warns(UserWarning, match="Setting forward"):
        wanted = DeepLift(module).attribute(images.requires_grad_(), baselines.requires_grad_(), target=TARGETS)
    for parameter in module.parameters():
        parameter.requires_grad_(False)

    found, _ = multipliers(module, images.detach(), baselines.detach(), TARGETS)

    torch.testing.assert_close((found * (images - baselines)).detach(), wanted.detach(), rtol=1e-4, atol=1e-6)


def test_the_papers_example_of_a_saturated_minimum() -> None:
    """Figure 1 of the paper: y = 1 - relu(1 - i1 - i2) is flat at (1, 1), and still both inputs get a half."""

    class Saturated(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (1 - torch.relu(1 - inputs.sum((1, 2, 3)))).unsqueeze(1)

    inputs = torch.tensor([1.0, 1.0]).view(1, 1, 1, 2)

    found, _ = multipliers(Saturated(), inputs, torch.zeros_like(inputs), torch.tensor([0]))

    torch.testing.assert_close(found.flatten(), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        (lambda maps: maps.sort(1).values, "sort"),
        (lambda maps: maps.amax() * maps, "amax"),
        (lambda maps: maps.norm(p=0.5, dim=1, keepdim=True) * maps, "norm"),
        (lambda maps: maps.std() * maps, "std"),
        (put_into_a_constant, "puts values"),
        (lambda maps: maps[maps > 0].mean() * maps, "__getitem__"),
        (lambda maps: maps if maps.mean() > 0 else -maps, "if"),
        (lambda maps: maps + maps.mean().item(), "item"),
        (lambda maps: maps.gather(1, maps.max(1, keepdim=True).indices), "gather"),
        (lambda maps: torch.fft.fft2(maps).angle(), "angle"),
        (lambda maps: torch.nn.functional.batch_norm(maps, None, None, training=True), "batch_norm"),
        (lambda maps: torch.nn.functional.dropout(maps, 0.5, training=True), "dropout"),
    ],
)
def test_an_operation_without_a_rule_is_refused_by_name(body: object, operation: str) -> None:
    with pytest.raises(UnsupportedOperation, match=operation):
        multipliers(Net(body), batch(0), batch(1), TARGETS)  # type: ignore[arg-type]


def test_images_in_one_batch_do_not_mix() -> None:
    module = BODIES["fused attention"]
    together, _ = multipliers(module, batch(0), batch(1), TARGETS)
    for row in range(3):
        alone, _ = multipliers(module, batch(0)[row : row + 1], batch(1)[row : row + 1], TARGETS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-6)


def test_multipliers_are_the_same_alone_and_in_a_batch() -> None:
    """Torch's own batch norm of one row is differentiated wrongly in this model; see `engine.gradients`."""
    module, images, targets = levit(), photos(2), torch.tensor([1, 2])
    blank = torch.zeros_like(images)

    together, _ = multipliers(module, images, blank, targets)

    for row in range(2):
        alone, _ = multipliers(module, images[row : row + 1], blank[:1], targets[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-3, atol=1e-4 * float(together.abs().max()))
