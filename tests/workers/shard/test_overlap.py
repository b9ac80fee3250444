"""Overlap keeps order and stays within its bounds."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import pytest

from heatmill_workers.shard.overlap import BoundedWriter, groups, prefetch


class Gauge:
    """Counts calls that have started and results that were taken."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.started = 0

    def work(self, number: int) -> int:
        with self.lock:
            self.started += 1
        return number * 10


def test_groups_keep_every_entry_in_order() -> None:
    assert list(groups(range(7), 3)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert list(groups([], 3)) == []


def test_preparing_ahead_keeps_the_order_and_never_runs_further_ahead_than_allowed() -> None:
    gauge = Gauge()
    with ThreadPoolExecutor(4) as pool:
        taken = 0
        for group in prefetch(pool, gauge.work, groups(range(20), 2), depth=3):
            assert group == [taken * 10, (taken + 1) * 10]
            taken += 2
            assert gauge.started <= taken + 3 * 2
    assert taken == 20


def test_with_depth_zero_nothing_is_prepared_before_its_predecessor_was_dealt_with() -> None:
    gauge = Gauge()
    with ThreadPoolExecutor(4) as pool:
        for taken, _ in enumerate(prefetch(pool, gauge.work, groups(range(5), 1), depth=0), 1):
            assert gauge.started == taken


def test_storing_behind_gives_back_everything_in_order() -> None:
    gauge = Gauge()
    with ThreadPoolExecutor(4) as pool:
        behind = BoundedWriter(pool, gauge.work, depth=2)
        arrived = [row for number in range(6) for row in behind.submit([number])]
        assert arrived[:4] == [0, 10, 20, 30]
        assert arrived + behind.finish() == [0, 10, 20, 30, 40, 50]


def test_what_is_stored_is_given_back_however_little_is_on_its_way() -> None:
    gauge, gate = Gauge(), Event()

    def work(number: int) -> int:
        if number == 1:
            gate.wait()
        return gauge.work(number)

    with ThreadPoolExecutor(1) as pool:
        behind = BoundedWriter(pool, work, depth=5)
        assert behind.submit([]) == []
        behind.submit([0])
        assert behind.submit([1, 2]) in ([], [0])
        gate.set()
        assert behind.finish()[-2:] == [10, 20]


def test_an_error_behind_reaches_the_one_who_waits() -> None:
    def fail(_: int) -> int:
        raise OSError("store")

    with ThreadPoolExecutor(1) as pool:
        behind = BoundedWriter(pool, fail, depth=0)
        with pytest.raises(OSError, match="store"):
            behind.submit([1])
