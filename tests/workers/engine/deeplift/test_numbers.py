"""Multipliers keep their digits where numbers are large, small, equal or infinite."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatmill_workers.engine.deeplift import multipliers  # noqa: F401 - the rules register themselves
from heatmill_workers.engine.deeplift.convolutions import Convolutions
from heatmill_workers.engine.deeplift.pairs import Pair
from tests.workers.engine.deeplift.modules import Net
from tests.workers.engine.deeplift.test_multipliers import batch, error

Function = Callable[[Tensor], Tensor]


def found(function: Function, image: Tensor, baseline: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """Multipliers of the weighted sum of what a function gives."""
    leaf = image.clone().requires_grad_()
    output: Tensor = function(Pair(leaf.clone(), baseline)).image  # type: ignore[attr-defined]
    (multiplier,) = torch.autograd.grad((output * weights).sum(), leaf)
    return multiplier


@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax, functional.softmin])
@pytest.mark.parametrize("offset", [1e4, -3e4])
def test_softmax_of_large_numbers_is_that_of_small_ones(function: Callable[..., Tensor], offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Numbers that float32 holds exactly beside the offset.
    image, baseline = (torch.randint(-256, 256, (4, 8), generator=generator) / 64 for _ in range(2))
    weights = torch.randn(4, 8, generator=generator)

    wanted = found(lambda x: function(x, 1), image, baseline, weights)

    shifted = found(lambda x: function(x, 1), image + offset, baseline + offset, weights)
    torch.testing.assert_close(shifted, wanted, rtol=1e-5, atol=1e-6)


def test_a_sum_of_logs_of_large_numbers_adds_up() -> None:
    image, baseline = (
        1e4 + torch.randint(-256, 256, (4, 8), generator=torch.Generator().manual_seed(n)) / 64 for n in (0, 1)
    )
    exact = image.double().logsumexp(1) - baseline.double().logsumexp(1)

    multiplier = found(lambda x: x.logsumexp(1), image, baseline)

    torch.testing.assert_close((multiplier * (image - baseline)).double().sum(1), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [lambda x: x.pow(1 / 3), torch.sqrt, torch.rsqrt, torch.log, torch.reciprocal])
@pytest.mark.parametrize("size", [1e-6, 1e-10, 1e-15])
def test_a_step_is_small_beside_what_it_starts_from_and_not_by_itself(function: Function, size: float) -> None:
    image, baseline = torch.tensor([3.0, 2.0, 5.0]) * size, torch.tensor([1.0, 9.0, 4.99]) * size
    exact = (function(image.double()) - function(baseline.double())) / (image.double() - baseline.double())

    torch.testing.assert_close(found(function, image, baseline).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("function", "slope"),
    [(torch.sigmoid, 0.25), (torch.exp, 1.0), (functional.softplus, 0.5), (torch.cos, 0.0), (functional.gelu, 0.5)],
)
@pytest.mark.parametrize("step", [0.0, 1e-30, 1e-20, 1e-9])
def test_a_change_that_is_lost_beside_the_value_has_the_derivative(
    function: Function, slope: float, step: float
) -> None:
    multiplier = found(function, torch.tensor([step]), torch.tensor([0.0]))

    torch.testing.assert_close(multiplier, torch.tensor([slope]), rtol=1e-5, atol=1e-6)


def test_a_root_that_starts_at_zero_has_its_change() -> None:
    multiplier = found(torch.sqrt, torch.tensor([1e-30, 1e-8, 0.0]), torch.zeros(3))

    torch.testing.assert_close(multiplier, torch.tensor([1e15, 1e4, 0.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "function", [lambda x: functional.leaky_relu(x, 0.01), functional.softshrink, functional.rrelu]
)
def test_slopes_are_exact_beside_a_step_that_rounds(function: Function) -> None:
    image = torch.tensor([-1.0, -3.3, 2.7, -0.9])
    baseline = torch.nextafter(image, torch.zeros(4))
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)

    torch.testing.assert_close(found(function, image, baseline), gradient, rtol=1e-5, atol=1e-6)


def test_a_root_of_numbers_that_are_hardly_active_is_complete() -> None:
    def mean(maps: Tensor) -> Tensor:
        return 100 * (0.01 * maps).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3).unsqueeze(2)

    assert error(Net(mean), batch(0), torch.zeros_like(batch(0))) < 1e-3


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.max_pool1d(x, 3, 1, 1),
        lambda x: functional.max_pool2d(x.unflatten(2, (4, 4)), 3, 1, 1),
        lambda x: functional.adaptive_max_pool1d(x, 1),
        lambda x: x.amax(-1),
        lambda x: x.max(-1).values,
        lambda x: torch.maximum(x, x.flip(-1)),
    ],
)
def test_largest_values_that_are_equal_are_complete(function: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    image, baseline = (torch.randint(0, 3, (5, 2, 16), generator=generator).float() for _ in range(2))

    multiplier = found(function, image, baseline)

    change = function(image).sum() - function(baseline).sum()
    torch.testing.assert_close((multiplier * (image - baseline)).sum(), change, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dim", [-1, 1])
def test_what_a_mask_of_minus_infinity_hides_has_no_part(dim: int) -> None:
    hidden = torch.eye(4) > 0
    image, baseline = batch(0)[0, :, :4, :4], batch(1)[0, :, :4, :4]

    multiplier = found(
        lambda x: x.masked_fill(hidden, -torch.inf).softmax(dim), image, baseline, batch(2)[0, :, :4, :4]
    )

    assert multiplier.isfinite().all()
    assert (multiplier[:, hidden] == 0).all()
    assert (multiplier[:, ~hidden] != 0).all()


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": "same"}, {"dilation": 2}])
def test_a_known_convolution_has_the_multipliers_of_one_that_is_computed(options: dict[str, Any]) -> None:
    convolve = partial(functional.conv2d, weight=batch(3)[:, :, :3, :3], bias=torch.ones(3), **options)
    weights, known = 2 * convolve(batch(0)), Convolutions()
    for seed in (1, 2):
        known.begin()
        leaf = batch(0).requires_grad_()
        pair = Pair(leaf.clone(), batch(seed))
        pair.conv_cache = known
        output: Any = convolve(pair)

        (multiplier,) = torch.autograd.grad((output.image * weights).sum(), leaf)

        torch.testing.assert_close(multiplier, found(convolve, batch(0), batch(seed), weights), rtol=1e-4, atol=1e-3)
