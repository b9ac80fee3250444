"""A baseline that all images share goes through the model once, and an image's convolutions are computed once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.attributions import deep_attributions
from heatmill_workers.engine.deeplift.convolutions import Convolutions
from heatmill_workers.engine.deeplift.multipliers import multipliers
from tests.workers.engine.deeplift.modules import BODIES, CONV, RELU, Body, Net
from tests.workers.engine.deeplift.test_multipliers import TARGETS, batch
from tests.workers.engine.deeplift.test_third_outcomes import COMPLETE, KERNELS
from tests.workers.small import loaded, photos, small_resnet

NETS = {**BODIES, **{name: Net(body, KERNELS, CONV) for name, body in COMPLETE.items()}}


class Convolved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many rows each convolution takes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETS)
def test_a_shared_baseline_gives_what_as_many_copies_of_it_give(name: str) -> None:
    one = batch(1, 0.5)[:1]

    shared = multipliers(NETS[name], batch(0), one.expand(3, -1, -1, -1), TARGETS)
    copies = multipliers(NETS[name], batch(0), one.repeat(3, 1, 1, 1), TARGETS)

    for found, wanted in zip(shared, copies, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_a_second_baseline_gives_what_it_gives_alone(name: str) -> None:
    known = Convolutions()
    multipliers(NETS[name], batch(0), batch(1), TARGETS, known)

    second = multipliers(NETS[name], batch(0), batch(2), TARGETS, known)
    third = multipliers(NETS[name], batch(0), batch(3), TARGETS, known)

    for found, alone in ((second, batch(2)), (third, batch(3))):
        for side, wanted in zip(found, multipliers(NETS[name], batch(0), alone, TARGETS), strict=True):
            torch.testing.assert_close(side, wanted, rtol=1e-4, atol=1e-5)


CHANGED: list[Body] = [
    lambda maps: CONV(maps)[:, 2:].relu_().repeat(1, 2, 1, 1)[:, :8],
    lambda maps: RELU(CONV(maps)) + maps,
    lambda maps: functional.conv2d(maps, CONV.weight, padding="same"),
]


@pytest.mark.parametrize("body", CHANGED)
def test_a_kept_convolution_that_was_changed_is_computed_again(body: Body) -> None:
    module, known = Net(body, RELU, CONV), Convolutions()
    wanted = [multipliers(module, batch(0), batch(seed), TARGETS)[0] for seed in (1, 2, 3)]

    found = [multipliers(module, batch(0), batch(seed), TARGETS, known)[0] for seed in (1, 2, 3)]

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_convolutions_are_computed_for_each_image_once_and_for_a_shared_baseline_once() -> None:
    shared, own = torch.zeros_like(batch(0)[:1]).expand(3, -1, -1, -1), batch(1)
    module = Net(lambda maps: CONV(functional.relu(maps)), CONV)
    module.head = nn.Linear(8, 10)
    model = loaded(module, side=16)
    deep_attributions(model, batch(0), TARGETS, [own])

    with Convolved() as convolved:
        deep_attributions(model, batch(0), TARGETS, [shared, own])

    # Of two convolutions: images, the shared baseline, the baselines of their own.
    assert sorted(convolved.rows) == sorted(2 * [3, 1, 3])


def test_residual_sums_and_pools_keep_a_baseline_shared() -> None:
    model, images = small_resnet(), photos(3)
    deep_attributions(model, images, TARGETS, [images])

    with Convolved() as convolved:
        deep_attributions(model, images, TARGETS, [torch.zeros_like(images[:1]).expand_as(images)])

    assert convolved.rows.count(1) == convolved.rows.count(3) == 20


def test_which_of_many_equal_entries_a_blank_baseline_has_largest_is_no_matter_of_rounding() -> None:
    module, exact = (Net(lambda maps: functional.max_pool2d(maps, 3, 2, 1)) for _ in range(2))
    # A border of zeros is not blank.
    module.stem.padding = exact.stem.padding = (0, 0)
    exact.double()
    blank = torch.full_like(batch(0), 0.7)
    # As a convolution may round: entries that are equal differ in their last digits.
    noise = batch(5, 1e-6)

    found = [multipliers(module, batch(0), baseline, TARGETS)[0] for baseline in (blank, blank + noise)]
    wanted, _ = multipliers(exact, batch(0).double(), blank.double(), TARGETS)

    for each in found:
        torch.testing.assert_close(each.double(), wanted, rtol=1e-3, atol=1e-4)


def test_a_model_that_computes_something_else_on_pairs_is_refused() -> None:
    class Telling(nn.Module):
        """It looks whether it is being followed."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 10)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.head(images.mean((2, 3)))
            return out if type(images) is Tensor else 2 * out

    model = loaded(Telling())

    with pytest.raises(UnsupportedOperation, match="other logits"):
        deep_attributions(model, 20 * batch(0), TARGETS, [torch.zeros_like(batch(0))])
