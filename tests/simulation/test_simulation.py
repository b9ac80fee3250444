"""Whatever breaks, and in whatever order: once it is over, each item has its row, once."""

import subprocess
import sys

from tests.simulation.scenario import Scenario
from tests.simulation.seeds import simulated

SEEDS = 50


def test_seeds_end_well() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", str(SEEDS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_is_the_same_each_time() -> None:
    with simulated() as world:
        traces = []
        for seed in (3, 4, 3):
            assert Scenario(world, seed).run() == []
            traces.append(world.steps.trace)
    assert traces[0] == traces[2] != traces[1]
