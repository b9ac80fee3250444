"""When a worker counts as one that takes nothing."""

from collections.abc import Iterable
from itertools import repeat

import pytest

from heatmill.errors import QueueUnavailable
from heatmill_workers.celery_app.watchdog import LOOKS, Snapshot, Watchdog

STUCK = Snapshot(waiting=3, taken=0, busy=False)


def given_up(sights: Iterable[Snapshot | None]) -> int:
    """How often a watchdog that sees this gives up; at None Redis is away."""
    seen = iter(list(sights))
    times = 0

    def observe() -> Snapshot:
        sight = next(seen)
        if sight is None:
            raise QueueUnavailable("away")
        return sight

    def give_up() -> None:
        nonlocal times
        times += 1

    watchdog = Watchdog(observe, give_up)
    while True:
        try:
            watchdog.poll()
        except StopIteration:
            return times


def test_a_worker_that_takes_nothing_while_messages_wait_is_given_up() -> None:
    assert given_up(repeat(STUCK, LOOKS)) == 1
    assert given_up(repeat(STUCK, LOOKS - 1)) == 0


@pytest.mark.parametrize(
    "pardon",
    [
        Snapshot(waiting=0, taken=0, busy=False),
        Snapshot(waiting=3, taken=0, busy=True),
        Snapshot(waiting=3, taken=1, busy=False),
        None,
    ],
    ids=["nothing waits", "it is busy", "it took one", "Redis is away"],
)
def test_one_look_that_shows_no_fault_starts_the_count_again(pardon: Snapshot | None) -> None:
    taken = pardon.taken if pardon else 0
    after = Snapshot(waiting=3, taken=taken, busy=False)

    assert given_up([*repeat(STUCK, LOOKS - 1), pardon, *repeat(after, LOOKS - 1)]) == 0
    assert given_up([*repeat(STUCK, LOOKS - 1), pardon, *repeat(after, LOOKS)]) == 1
