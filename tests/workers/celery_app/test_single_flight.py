"""Many calls, few runs, and no call is answered by a run that began before it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from heatmill_workers.celery_app.single_flight import SingleFlight

CALLERS = 16


def test_what_is_asked_for_while_a_run_goes_on_is_done_once_after_it() -> None:
    begun = threading.Semaphore(0)
    goes_on = threading.Event()
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        begun.release()
        assert goes_on.wait(10)

    once = SingleFlight(run)
    with ThreadPoolExecutor(CALLERS) as pool:
        first = pool.submit(once)
        assert begun.acquire(timeout=10)
        more = [pool.submit(once) for _ in range(CALLERS - 1)]
        # All but the one that waits for the first are done although nothing has run for them yet.
        while sum(call.done() for call in more) < CALLERS - 2:
            pass
        assert runs == 1
        goes_on.set()
        for call in (first, *more):
            call.result(10)
    assert runs == 2


def test_a_run_begins_after_every_call() -> None:
    asked = seen = 0
    lock = threading.Lock()

    def run() -> None:
        nonlocal seen
        seen = asked

    once = SingleFlight(run)

    def call(_: int) -> None:
        nonlocal asked
        with lock:
            asked += 1
        once()

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(500)))
    assert seen == 500


def test_a_run_that_fails_does_not_stop_the_next() -> None:
    failures = iter([OSError])

    def run() -> None:
        for failure in failures:
            raise failure

    once = SingleFlight(run)
    with pytest.raises(OSError):  # noqa: PT011 - ours
        once()
    once()
