"""A model's outputs must not depend on how often it ran; counters that nothing depends on are let be."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from tests.workers.models.proof.subjects import Net, noise, proved, seeded

CALLS = 0


class Cools(Net):
    """Another temperature after many calls."""

    calls = 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return super().forward(images) * (1 if self.calls < 1000 else 2)


class InABuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Any:
        self.calls += 1  # type: ignore[operator, assignment]
        return super().forward(images) * (1 + (self.calls > 1000))  # type: ignore[operator]


class InAPlainTensor(Net):
    def __init__(self) -> None:
        super().__init__()
        self.calls = torch.zeros(1, dtype=torch.int16)

    def forward(self, images: Tensor) -> Any:
        self.calls = self.calls + len(images)
        return super().forward(images) * (1 + (self.calls > 10000))


class InItsClass(Net):
    calls = 0.0

    def forward(self, images: Tensor) -> Any:
        InItsClass.calls += 0.5
        return super().forward(images) * (1 if InItsClass.calls < 5000 else 2)


class InItsFile(Net):
    def forward(self, images: Tensor) -> Any:
        global CALLS  # noqa: PLW0603 - what is tested
        CALLS += 1
        return super().forward(images) * (1 if CALLS < 5000 else 2)


class InAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.state = {"calls": [0]}

    def forward(self, images: Tensor) -> Any:
        self.state["calls"][0] += 1
        return super().forward(images) * (1 if self.state["calls"][0] < 5000 else 2)


@pytest.mark.parametrize("kind", [Cools, InABuffer, InAPlainTensor, InItsClass, InItsFile, InAList])
def test_a_model_whose_outputs_depend_on_how_often_it_ran_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ModelRefused, match=r"it counts \(.*(calls|CALLS)"):
        proved(seeded(kind))


class Logs(Net):
    """Counts what it did, keeps shapes and sums, and uses none of it."""

    calls = 0
    seen = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("used", torch.zeros(8, dtype=torch.long))

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        self.seen += float(images.mean())
        self.size = tuple(images.shape)
        self.used += 1  # type: ignore[operator, assignment]
        return super().forward(images)


class TakesTurns(Net):
    """One of eight equal copies of a table at a time."""

    turn = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(8, 8))

    def read(self, features: Tensor) -> Tensor:
        self.turn = (self.turn + 1) % 8
        return super().read(features) * self.table[self.turn]  # type: ignore[index]


@pytest.mark.parametrize("kind", [Logs, TakesTurns])
def test_counters_that_change_nothing_are_let_be(kind: type[nn.Module]) -> None:
    wanted = seeded(kind)(noise())
    model = proved(seeded(kind))

    torch.testing.assert_close(model.module(noise()), wanted, rtol=1e-3, atol=1e-3)


def test_a_counter_stands_where_it_stood_after_the_proof() -> None:
    module: Any = seeded(Logs)

    proved(module)

    assert 0 < module.calls < 500
    assert 0 < int(module.used[0]) < 500
