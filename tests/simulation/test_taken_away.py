"""The simulation finds what it is for: each protection is taken away, and some seed shows that it is missing."""

import pytest

from tests.simulation.scenario import Scenario
from tests.simulation.seeds import simulated
from tests.simulation.taken_away import TAKEN_AWAY, Take

SEEDS = 150


@pytest.mark.verify
@pytest.mark.parametrize("take", TAKEN_AWAY, ids=lambda take: take.__name__)
def test_a_protection_that_is_taken_away_is_missed(monkeypatch: pytest.MonkeyPatch, take: Take) -> None:
    take(monkeypatch)
    with simulated() as world:
        assert any(Scenario(world, seed).run() for seed in range(SEEDS))
