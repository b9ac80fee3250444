"""A worker gives a shard back between parts, and in the middle of one only where it must."""

from collections.abc import Iterable

import pytest

from heatmill_workers.shard.time_budget import STOP_SECONDS, TimeBudget

LATE = "it takes longer here than a shard should"
STOPS = "the worker stops"
LIMIT = 90.0


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.stopping = False


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def budget(watch: Watch) -> TimeBudget:
    return TimeBudget(LIMIT, lambda: watch.stopping, lambda: watch.seconds)


def reasons(budget: TimeBudget, parts: Iterable[bool]) -> list[str | None]:
    return [budget.reason_to_pause(begins_part=begins) for begins in parts]


def test_a_shard_in_time_is_done_to_its_end(budget: TimeBudget, watch: Watch) -> None:
    watch.seconds += LIMIT * 2 / 3
    assert reasons(budget, [True, False, True, False]) == [None] * 4


def test_what_is_late_ends_with_the_part_at_work(budget: TimeBudget, watch: Watch) -> None:
    assert reasons(budget, [True, False]) == [None, None]
    watch.seconds += LIMIT * 2 / 3 + 1
    assert reasons(budget, [False, False, True]) == [None, None, LATE]


def test_a_first_part_is_done_however_late_it_is(budget: TimeBudget, watch: Watch) -> None:
    watch.seconds += 100 * LIMIT
    assert reasons(budget, [True, False, False]) == [None] * 3
    assert reasons(budget, [True]) == [LATE]


def test_a_worker_that_stops_begins_no_part(budget: TimeBudget, watch: Watch) -> None:
    watch.stopping = True
    assert reasons(budget, [True]) == [STOPS]


def test_a_worker_that_stops_finishes_the_part_at_work(budget: TimeBudget, watch: Watch) -> None:
    assert reasons(budget, [True]) == [None]
    watch.stopping = True
    assert reasons(budget, [False, False, True]) == [None, None, STOPS]


def test_a_part_that_takes_long_does_not_keep_a_worker_from_stopping(budget: TimeBudget, watch: Watch) -> None:
    assert reasons(budget, [True]) == [None]
    watch.stopping = True
    assert reasons(budget, [False]) == [None]
    watch.seconds += STOP_SECONDS + 1
    assert reasons(budget, [False]) == [STOPS]
