"""Workers that are far slower than the pace says by which shards were cut: they take their time, and fail nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from heatmill.jobs import records
from heatmill.jobs.parts import MAX_PARTS
from tests.faults.classifier import NAP
from tests.faults.photos import ordering
from tests.faults.service import Service
from tests.faults.stack import wait_until

# Two minutes; what a shard does in parts is tested without processes in tests/workers/shard/test_parts.py.
pytestmark = pytest.mark.verify
# Of these tests' time limit, which holds for the load of the model too.
LIMIT_SECONDS = 6


PHOTOS = [ordering(f"laggard-{number:02}", NAP, 12) for number in range(64)]


@contextmanager
def one_worker(service: Service, **settings: str) -> Iterator[None]:
    """One worker, and shards that were cut for a GPU."""
    service.stack.kill("explain-1", "explain-2")
    service.stack.start_explain(3, **settings)
    try:
        service.wait(service.submit(PHOTOS[:1]))
        service.seconds_per_pass = 1e-6
        yield
    finally:
        service.seconds_per_pass = None
        service.stack.kill("explain-3")


def test_a_worker_that_is_fifty_times_slower_than_the_pace_says_does_all_of_a_shard(service: Service) -> None:
    with one_worker(service, shard_limit_seconds=str(LIMIT_SECONDS)):
        submitted = time.monotonic()
        job = service.submit(PHOTOS)

        history = service.healed(
            f"worker far slower than was thought: 8 s of work, limit {LIMIT_SECONDS}", job, submitted
        )

        assert [(row.item, row.error) for row in history.rows()] == [(photo.id, None) for photo in PHOTOS]
        plan = records.load_plan(service.storage, job)
        assert plan
        assert plan.shards == 1
        assert service.most_attempts(job) == 1, "no attempt died"


def test_images_that_together_take_longer_than_the_time_limit_go_alone_and_succeed(service: Service) -> None:
    with one_worker(service, shard_limit_seconds=str(LIMIT_SECONDS)):
        submitted = time.monotonic()
        # 17 images make parts of three; the first takes 7.5 s.
        job = service.submit([*(ordering(f"slower-{number}", NAP, 250) for number in range(3)), *PHOTOS[:14]])

        history = service.healed(f"group of images over the limit: 7.5 s, limit {LIMIT_SECONDS}", job, submitted)

        assert [row.error for row in history.rows()] == [None] * 17
        assert service.most_attempts(job) == 2, "the first attempt was killed by the time limit"


def test_a_worker_that_is_asked_to_stop_gives_back_the_rest_of_its_shard(service: Service) -> None:
    with one_worker(service):
        job = service.submit(PHOTOS)
        wait_until(lambda: records.shard_names(service.storage, job, 0), 30, "a part is committed")

        stopping = service.stack.processes["explain-3"]
        stopping.ask_to_stop()
        wait_until(stopping.has_ended, 5, "the worker has stopped")

        assert stopping.end(0) == 0
        assert 0 < len(records.shard_names(service.storage, job, 0)) < MAX_PARTS
        assert service.claims(job) == 0
    service.stack.supervise()
    assert [(row.item, row.error) for row in service.wait(job).rows()] == [(photo.id, None) for photo in PHOTOS]
    assert service.most_attempts(job) == 1
