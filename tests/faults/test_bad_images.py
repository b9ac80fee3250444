"""One image that kills workers, exhausts memory or hangs: it fails alone, after three attempts at most."""

import time

import pytest

from tests.faults.photos import EXHAUSTING, HANGING, HOARDING, KILLER, Photo
from tests.faults.service import Service, batch

GOOD = batch()[:7]
# Of these tests' hard limit on a shard; a good shard takes less than a second.
LIMIT_SECONDS = 6


def test_an_image_kills_the_worker(service: Service) -> None:
    photos = [*GOOD[:2], KILLER, *GOOD[2:]]
    submitted = time.monotonic()
    job = service.submit(photos)

    history = service.healed("image that kills the worker, from submission", job, submitted)
    history.check(photos, service.reference(GOOD), {KILLER.id: "worker_crashed"})
    assert service.most_attempts(job) in {2, 3}, "a part that is committed on the way begins anew"


@pytest.mark.parametrize(
    "photo", [HOARDING, EXHAUSTING], ids=["more than there is, at once", "bit by bit, until there is none"]
)
def test_an_image_exhausts_memory(service: Service, photo: Photo) -> None:
    photos = [*GOOD[:2], photo, *GOOD[2:]]
    submitted = time.monotonic()
    job = service.submit(photos)

    history = service.healed(f"image that exhausts memory ({photo.id}), from submission", job, submitted)
    history.check(photos, service.reference(GOOD), {photo.id: "item_too_large_for_device"})
    assert service.most_attempts(job) == 1


def test_an_image_hangs(service: Service) -> None:
    service.stack.kill("explain-1", "explain-2")
    service.stack.start_explain(3, shard_limit_seconds=str(LIMIT_SECONDS))
    try:
        service.wait(service.submit(GOOD[:1]))
        photos = [*GOOD[:2], HANGING, *GOOD[2:]]
        submitted = time.monotonic()
        job = service.submit(photos)

        history = service.healed(f"image that hangs, limit {LIMIT_SECONDS} s, from submission", job, submitted)
        history.check(photos, service.reference(GOOD), {HANGING.id: "worker_crashed"})
        assert service.most_attempts(job) in {2, 3}, "a part that is committed on the way begins anew"
    finally:
        service.stack.kill("explain-3")
