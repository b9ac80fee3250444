"""What a model decides for a whole batch must not change an image's outputs, whatever other images lead to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from tests.workers.models.proof.subjects import LABELS, Net, noise, proved, seeded


class Exits(Net):
    """Two classifiers; the first answers where a condition holds for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, len(LABELS))

    def forward(self, images: Tensor) -> Any:
        features = self.read(self.features(images))
        first: Tensor = self.head(features)
        return first if self.is_over(first.softmax(1).amax(1)) else 5 * self.last(features)

    def is_over(self, sure: Tensor) -> bool:
        """By how sure the first is, (N,)."""
        raise NotImplementedError


def exits(is_over: Callable[[Tensor], Any]) -> type[Net]:
    """Of five proof images all take one exit: they are between 0.33 and 0.5 sure."""
    return type("ExitsEarly", (Exits,), {"is_over": lambda self, sure: is_over(sure)})


EARLY = {
    "all, and none is": lambda sure: (sure > 0.9).all(),
    "all, and all are": lambda sure: (sure > 0.2).all(),
    "any, and none is": lambda sure: (sure > 0.9).any(),
    "not any": lambda sure: not torch.any(sure < 0.2),
    "least": lambda sure: sure.min() > 0.9,
    "least in Python": lambda sure: sure.min().item() > 0.9,
    "least of rows": lambda sure: float(sure.amin(0)) > 0.9,
    "mean": lambda sure: sure.mean() > 0.9,
    "median": lambda sure: sure.median() > 0.9,
    "number": lambda sure: (sure > 0.9).sum() == len(sure),
    "number of others": lambda sure: torch.count_nonzero(sure <= 0.9) == 0,
    "places": lambda sure: len((sure <= 0.9).nonzero()) == 0,
    "flattened": lambda sure: sure.view(-1, 1).expand(-1, 4).reshape(-1).min() > 0.9,
    "NumPy": lambda sure: (sure > 0.9).all().numpy(),
    "among others": lambda sure: sure.isnan().any() or (sure > 0.9).all(),
}


@pytest.mark.parametrize("name", EARLY)
def test_an_exit_that_a_whole_batch_decides_is_refused(name: str) -> None:
    with pytest.raises(ModelRefused, match="decides by a whole batch what it computes"):
        proved(seeded(exits(EARLY[name])))


BY_PYTHON = {
    "a list": lambda sure: all(each > 0.5 for each in sure.tolist()),
    "rows": lambda sure: all(bool(each > 0.5) for each in sure),
    "the first row": lambda sure: bool(sure[0] > 0.5),
}


@pytest.mark.parametrize("name", BY_PYTHON)
def test_a_decision_of_python_is_seen_by_images_of_many_contrasts(name: str) -> None:
    sharp: Any = seeded(exits(BY_PYTHON[name]))
    with torch.no_grad():
        sharp.head.weight *= 6

    with pytest.raises(ModelRefused, match="rows depend on one another"):
        proved(sharp)


class Refines(Net):
    """Repeats until the whole batch has come to rest."""

    def read(self, features: Tensor) -> Tensor:
        found = torch.zeros_like(features)
        for _ in range(60):
            following = 0.8 * found.tanh() + features
            if (following - found).abs().mean() < 1e-2:
                break
            found = following
        return found.mean((2, 3))


class SniffsTheRange(Net):
    """Takes images for bytes where any of a batch is bright."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images / 255 if images.max() > 50 else images)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.last = Net(), nn.Linear(8, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        features = self.net.first(images).relu().mean((2, 3))
        features = torch.cat([features, features[:, :2]], 1)
        first: Tensor = self.last(features)
        if bool((first.softmax(1).amax(1) > 0.43).all()):
            return first
        return 5 * self.net.head(features)  # type: ignore[no-any-return]


def scripted() -> nn.Module:
    module: nn.Module = torch.jit.script(Scripted())
    return module


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", [Refines, SniffsTheRange, scripted])
def test_other_decisions_of_a_batch_are_refused(kind: Any) -> None:
    with pytest.raises(ModelRefused, match="rows depend on one another"):
        proved(seeded(kind))


class Experts(Net):
    """Each row goes through the expert of its own; those that no row asks for are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def read(self, features: Tensor) -> Tensor:
        rows = features.mean((2, 3))
        chosen, out = (50 * self.gate(rows)).argmax(1), torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            mask = chosen == number
            if self.is_asked(mask):
                out[mask] = expert(rows[mask])
        return out

    def is_asked(self, mask: Tensor) -> bool:
        return bool(mask.any())


class CountedExperts(Experts):
    def is_asked(self, mask: Tensor) -> bool:
        return mask.sum().item() > 0


class ListedExperts(Experts):
    def is_asked(self, mask: Tensor) -> bool:
        return len(mask.nonzero()) > 0


class Asserts(Net):
    """Looks for faults in the whole batch."""

    def forward(self, images: Tensor) -> Any:
        if images.isnan().any() or images.abs().max() > 50:
            raise ValueError("no photos")
        logits = super().forward(images)
        assert torch.isfinite(logits).all()
        if torch.isinf(logits).any():
            logits = logits.clamp(-1e4, 1e4)
        return logits


class TakesAwayTheLargest(Net):
    """Which cancels."""

    def read(self, features: Tensor) -> Tensor:
        rows = features.mean((2, 3))
        powers = (rows - rows.max()).exp()
        return powers / powers.sum(1, keepdim=True)


class ReducesItsWeights(Net):
    def read(self, features: Tensor) -> Tensor:
        weights = self.head.weight
        return super().read(features) * (weights - weights.mean(0)).norm() / weights.max()  # type: ignore[no-any-return]


class LooksAtEachRow(Exits):
    def forward(self, images: Tensor) -> Any:
        return torch.cat([super(LooksAtEachRow, self).forward(image) for image in torch.split(images, 1)])

    def is_over(self, sure: Tensor) -> bool:
        return bool((sure > 0.37).all())


@pytest.mark.parametrize(
    "kind",
    [Experts, CountedExperts, ListedExperts, Asserts, TakesAwayTheLargest, ReducesItsWeights, LooksAtEachRow],
)
def test_what_looks_at_a_batch_and_changes_no_row_is_explained(kind: type[Net]) -> None:
    wanted = seeded(kind)(noise())

    torch.testing.assert_close(proved(seeded(kind)).module(noise()), wanted, rtol=1e-3, atol=1e-3)
