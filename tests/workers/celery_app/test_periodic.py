"""The timer goes on, whatever one run does."""

import threading

from heatmill_workers.celery_app.periodic import every


def test_an_error_ends_one_run_and_not_the_timer() -> None:
    runs = threading.Semaphore(0)

    def fail() -> None:
        runs.release()
        raise RuntimeError("one run")

    stopped = every("test", 0.001, fail)

    assert all(runs.acquire(timeout=10) for _ in range(3))
    stopped.set()
