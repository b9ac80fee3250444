"""Workers that are far slower than the pace says by which shards were cut: they take their time, and fail nothing."""

import time
from collections.abc import Iterator

import pytest

from heatmill import records
from tests.faults.photos import slow
from tests.faults.service import Service

# Of these tests' time limit; a GPU would do a hundred images in it.
LIMIT_SECONDS = 2


@pytest.fixture
def service(service: Service) -> Iterator[Service]:
    """With one worker that has little time, and shards that were cut for a GPU."""
    service.reference(slow(64, 5))
    service.stack.kill("explain-1", "explain-2")
    service.stack.start_explain(3, shard_limit_seconds=str(LIMIT_SECONDS))
    service.seconds_per_pass = 1e-6
    yield service
    service.seconds_per_pass = None
    service.stack.kill("explain-3")


def test_a_worker_that_is_fifty_times_slower_than_the_pace_says_does_all_of_a_shard(service: Service) -> None:
    photos = slow(64, 5)
    submitted = time.monotonic()
    job = service.submit(photos)

    history = service.healed(
        f"worker far slower than the pace says, limit {LIMIT_SECONDS} s, 6 s of work", job, submitted
    )

    history.check(photos, service.reference(photos))
    plan = records.load_plan(service.storage, job)
    assert plan
    assert plan.shards == 1
    assert service.most_attempts(job) == 1, "no attempt died"


def test_images_that_together_take_longer_than_the_time_limit_go_alone_and_succeed(service: Service) -> None:
    # Ten images make five parts; two of them take 2.4 s.
    photos = slow(10, 60)
    submitted = time.monotonic()
    job = service.submit(photos)

    history = service.healed(f"group of images over the limit of {LIMIT_SECONDS} s, 12 s of work", job, submitted)

    assert [row.error for row in history.rows()] == [None] * 10
    assert service.most_attempts(job) == 2, "the first attempt was killed by the time limit"
