"""Whether values lie in the ranges that follow from the operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatmill_workers.models.proof.intervals import ALL, Range
from heatmill_workers.models.proof.ranges import Ranges

VALUES = 30 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))

OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Range | None]] = {
    "linear": (lambda x: functional.linear(x, torch.eye(4)), ALL),
    "sigmoid": (torch.sigmoid, Range(0, 1)),
    "one minus": (lambda x: 1 - x.sigmoid(), Range(0, 1)),
    "minus one": (lambda x: x.sigmoid() - 1, Range(-1, 0)),
    "minus, turned": (lambda x: torch.rsub(x.sigmoid(), 3), Range(2, 3)),
    "scaled": (lambda x: x.sigmoid() * 9 + 1, Range(1, 10)),
    "scaled by a tensor": (lambda x: x.tanh() * torch.tensor([-2.0, 3, 1, 1]), Range(-3, 3)),
    "divided": (lambda x: x.sigmoid() / -4, Range(-0.25, 0)),
    "mean": (lambda x: x.sigmoid().mean(1), Range(0, 1)),
    "sum": (lambda x: x.sigmoid().sum(1), Range(0, 4)),
    "joined": (lambda x: torch.cat([x.sigmoid(), x.tanh()], 1), Range(-1, 1)),
    "joined to a constant": (lambda x: torch.cat([x.sigmoid(), torch.full((1, 4), 7.0)]), Range(0, 7)),
    "clamped": (lambda x: x.clamp(-2, 5), Range(-2, 5)),
    "clamped below": (lambda x: x.sigmoid().clamp(min=0.5), Range(0.5, 1)),
    "clamped above": (lambda x: x.sigmoid().clamp_max(0.5), Range(0, 0.5)),
    "hard": (functional.hardtanh, Range(-1, 1)),
    "exp of what is negative": (lambda x: (-x.square()).exp(), Range(0, 1)),
    "root": (lambda x: x.sigmoid().sqrt(), Range(0, 1)),
    "power": (lambda x: (x.tanh() * 3) ** 2, Range(0, 9)),
    "largest": (lambda x: x.sigmoid().max(1).values, Range(0, 1)),
    "view": (lambda x: x.sigmoid().view(-1)[:7].float().unsqueeze(0), Range(0, 1)),
    "sum with a factor": (lambda x: torch.add(x.sigmoid(), x.sigmoid(), alpha=5), None),
    "unknown": (lambda x: torch.cumsum(x.sigmoid(), 1), None),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_range_follows_from_the_operations_and_holds_all_values(name: str) -> None:
    function, wanted = OPERATIONS[name]
    with Ranges(VALUES) as ranges:
        found = function(VALUES)

    known = ranges.of(found)
    if wanted is None or known is None:
        assert known == wanted
        return
    assert (known.low, known.high) == pytest.approx((wanted.low, wanted.high))
    assert known.low <= float(found.min())
    assert float(found.max()) <= known.high


def test_bounds_that_two_dependent_numbers_need_not_reach_are_not_attained() -> None:
    with Ranges(VALUES) as ranges:
        found = VALUES.square() / (1 + VALUES.square())
        product = VALUES * VALUES.sigmoid()

    for tensor in (found, product):
        known = ranges.of(tensor)
        assert known is not None
        assert not known.attained
