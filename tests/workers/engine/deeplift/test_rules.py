"""One checker proves every rule of the register, as `check_vjp` of HIPS/autograd proves each of its rules."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from heatmill_workers.engine.deeplift import multipliers  # noqa: F401 - the rules register themselves
from heatmill_workers.engine.deeplift.affine import METADATA, METADATA_OF_NUMBERS
from heatmill_workers.engine.deeplift.pairs import Pair
from heatmill_workers.engine.deeplift.register import RULES, plain_name
from tests.workers.engine.deeplift.calls import CALLS, PARTS, Call, Given, X
from tests.workers.engine.deeplift.ways import ways

Function = Callable[..., Any]
Gradients = tuple[Tensor | None, ...]
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}
# Where a way to call it takes other arguments, or is none.
NOT_THESE_ARGUMENTS = (TypeError, RuntimeError, ValueError, IndexError, AttributeError)
LOOKS = {*METADATA, *METADATA_OF_NUMBERS}


class Names(TorchFunctionMode):
    """The names of the functions that torch meets."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.met.add(plain_name(func)[0])
        return func(*args, **(kwargs or {}))


def drawn(call: Call, seed: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [each.draw(generator, dtype) for each in _given(call.args)]


def filled(call: Call, values: list[Any], dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with values in the place of what is given, and constants of this precision."""
    left = iter(values)
    options = {name: _in(option, left, dtype) for name, option in call.options.items()}
    return tuple(_in(arg, left, dtype) for arg in call.args), options


def multiplied(function: Function, call: Call, images: list[Tensor], baselines: list[Tensor]) -> tuple[Any, ...]:
    """Multipliers of a weighted sum of the outputs, the weighted sum's change, and the outputs on both sides."""
    leaves = [image.clone().requires_grad_() for image in images]
    pairs = [Pair(leaf.clone(), baseline) for leaf, baseline in zip(leaves, baselines, strict=True)]
    args, options = filled(call, pairs, images[0].dtype)
    with torch.enable_grad():
        outputs = _outputs(function(*args, **options), args[0])
    total = torch.stack([weighted(output.image) for output in outputs]).sum()
    start = torch.stack([weighted(output.baseline) for output in outputs]).sum()
    found: Gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    gradients = [torch.zeros_like(leaf) if each is None else each for each, leaf in zip(found, leaves, strict=True)]
    return gradients, (total - start).detach(), outputs


def weighted(output: Tensor) -> Tensor:
    """A sum in which every entry counts for itself."""
    real = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
    weights = torch.linspace(-1, 1, max(real.numel(), 2), dtype=real.dtype)[: real.numel()]
    return (real.flatten() * weights.cos()).sum()


def plainly(function: Function, call: Call, values: list[Tensor]) -> list[Tensor]:
    """What it gives on plain tensors."""
    args, options = filled(call, [value.clone() for value in values], values[0].dtype)
    return [
        each.to(values[0].dtype) if each.dtype == torch.bool else each
        for each in _outputs(function(*args, **options), args[0], Tensor)
    ]


def check(function: Function, call: Call, dtype: torch.dtype = torch.float32, *, shared: bool = False) -> None:
    """Complete, and the values of both sides are the function's own."""
    images, baselines = drawn(call, 1, dtype), drawn(call, 2, dtype)
    if shared:
        baselines = [each[:1].expand_as(each) if each.ndim else each for each in baselines]
    found, change, outputs = multiplied(function, call, images, baselines)
    for side, values in (("image", images), ("baseline", baselines)):
        for output, wanted in zip(outputs, plainly(function, call, values), strict=True):
            torch.testing.assert_close(getattr(output, side).detach(), wanted, rtol=1e-4, atol=1e-5, check_dtype=False)
    total = sum((m * (x - y)).sum() for m, x, y in zip(found, images, baselines, strict=True))
    size = sum((m * (x - y)).abs().sum() for m, x, y in zip(found, images, baselines, strict=True))
    assert all(each.isfinite().all() for each in found)
    assert abs(float(total - change)) <= TOLERANCE[dtype] * max(float(size), 1e-3)


def check_limit(function: Function, call: Call, dtype: torch.dtype, step: float) -> None:
    """Against a baseline that is nearly the image the multipliers are the derivatives."""
    images, steps = drawn(call, 1, dtype), drawn(call, 3, dtype)
    baselines = [image + step * each for image, each in zip(images, steps, strict=True)]
    found, _, _ = multiplied(function, call, images, baselines)
    leaves = [image.clone().requires_grad_() for image in images]
    # A function may change its argument in place, which autograd forbids on a leaf.
    total = torch.stack([weighted(output) for output in plainly(function, call, leaves)]).sum()
    wanted: Gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    for each, gradient in zip(found, wanted, strict=True):
        expected = torch.zeros_like(each) if gradient is None else gradient
        torch.testing.assert_close(each, expected, rtol=1e-2, atol=2e-3 * max(float(expected.abs().max()), 1e-3))


def callable_ways(name: str, call: Call) -> dict[str, Function]:
    """The ways that take these arguments on plain tensors."""
    found = {}
    for way, function in ways(name).items():
        if way.endswith("_") and not isinstance(call.args[0], Given):
            continue
        try:
            plainly(function, call, drawn(call, 1, torch.float32))
        except NOT_THESE_ARGUMENTS:
            continue
        found[way] = function
    return found


def test_every_rule_is_checked_and_every_check_has_a_rule() -> None:
    with Names() as names:
        for part in PARTS.values():
            part(X.draw(torch.Generator().manual_seed(1), torch.float32))

    assert set(CALLS) | (names.met & set(RULES)) == set(RULES)
    assert set(CALLS) <= set(RULES)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_torch_calls_the_function_by_the_name_of_its_rule(name: str) -> None:
    with Names() as names:
        taken = [callable_ways(name, each) for each in CALLS[name]]

    assert all(taken)
    assert name in names.met


@pytest.mark.parametrize("name", sorted(set(CALLS) - LOOKS))
def test_in_each_way_to_call_it_the_multipliers_are_complete(name: str) -> None:
    for each in CALLS[name]:
        for function in callable_ways(name, each).values():
            check(function, each)
            check(function, each, shared=True)
            if name != "float":
                check(function, each, torch.float64)


@pytest.mark.parametrize("name", sorted(set(CALLS) - LOOKS))
def test_the_multipliers_tend_to_the_derivatives(name: str) -> None:
    for each in (each for each in CALLS[name] if each.smooth):
        function = next(iter(callable_ways(name, each).values()))
        check_limit(function, each, torch.float32, 1e-5)
        check_limit(function, each, torch.float64, 1e-8)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_made_of_several_functions_is_complete_and_tends_to_its_derivative(name: str) -> None:
    for dtype, step in ((torch.float32, 1e-5), (torch.float64, 1e-8)):
        check(PARTS[name], Call((X,), {}), dtype)
        check_limit(PARTS[name], Call((X,), {}), dtype, step)
    check(PARTS[name], Call((X,), {}), shared=True)


def _given(args: Any) -> Iterator[Given]:
    for arg in args:
        if isinstance(arg, Given):
            yield arg
        elif isinstance(arg, (tuple, list)):
            yield from _given(arg)


def _in(arg: Any, left: Iterator[Any], dtype: torch.dtype) -> Any:
    if isinstance(arg, Given):
        return next(left)
    if isinstance(arg, (tuple, list)):
        return type(arg)(_in(each, left, dtype) for each in arg)
    return arg.to(dtype) if isinstance(arg, Tensor) and arg.is_floating_point() else arg


def _outputs(result: Any, first: Any, kind: type[Tensor] = Pair) -> list[Any]:
    """The tensors that a call gives; of one that gives nothing, what it has changed."""
    if result is None:
        return [first]
    each = result if isinstance(result, (tuple, list)) else [result]
    return [output for output in each if isinstance(output, kind) and (kind is Pair or output.dtype != torch.int64)]
