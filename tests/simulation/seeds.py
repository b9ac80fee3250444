"""Run seeds in this process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.simulation.patched import patched
from tests.simulation.scenario import Scenario
from tests.simulation.world import World


def simulate(seeds: Iterable[int]) -> dict[int, list[str]]:
    """What is wrong, by seed."""
    with simulated() as world:
        found = {seed: Scenario(world, seed).run() for seed in seeds}
    return {seed: wrong for seed, wrong in found.items() if wrong}


def trace_of(seed: int) -> tuple[list[str], list[str]]:
    """The events of a seed, and what is wrong."""
    with simulated() as world:
        wrong = Scenario(world, seed).run()
        return world.steps.trace, wrong


@contextmanager
def simulated() -> Iterator[World]:
    """A world, for any number of seeds."""
    world = World()
    with patched(lambda: world.steps, world.compute, world.here):
        yield world
