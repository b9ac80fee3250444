"""A tenant floods the service, another sends one image; and Redis holds a window of work, whatever the job's size."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from threading import Event

import pytest

from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from tests.faults.photos import Photo, slow
from tests.faults.service import EXPLAIN, Service, batch
from tests.faults.stack import SHORT, wait_until

WINDOW = int(SHORT["window_shards"])
ITEMS_PER_SHARD = 4


@pytest.mark.parametrize("shards", [1, 3], ids=["one image", "three shards"])
def test_a_tenant_floods_1000_shards_and_another_is_served_in_its_turn(service: Service, shards: int) -> None:
    # The same photo again and again: 1,000 shards of it take minutes, and are cancelled once the test knows.
    (photo,) = slow(1)
    many = [Photo(f"flood-{number}", photo.data) for number in range(1000 * ITEMS_PER_SHARD)]
    flood = service.submit(many, tenant="a", priority="normal")
    service.wait_for_commits(flood)
    before = commits(service, flood)
    photos = batch()[: 1 if shards == 1 else shards * ITEMS_PER_SHARD]
    started = time.monotonic()
    single = service.submit(photos, tenant="b", priority="normal")

    wait_until(partial(is_committed, service, single, shards), 60, "the other tenant's job is done")
    served_first = commits(service, flood) - before
    service.cancel(flood)

    service.healed(f"1,000 shards of one tenant, {shards} of another: until the other's is done", single, started)
    # What was in the window before it, and then every second turn; and what workers had begun or ended meanwhile.
    assert served_first <= WINDOW + shards + len(EXPLAIN)
    assert service.watcher.queued <= WINDOW, "the window bounds what lies in Redis"
    service.wait(flood)


def test_a_tenant_floods_small_jobs_without_a_pause_and_another_is_served_in_its_turn(service: Service) -> None:
    flood, stop = [], Event()
    (photo,) = slow(1)
    small = [Photo(f"flood-{number}", photo.data) for number in range(ITEMS_PER_SHARD)]
    service.upload(small)

    def post() -> None:
        while not stop.is_set():
            answer = service.post(small, priority="normal", cache=False)
            if answer.status_code == HTTPStatus.ACCEPTED:
                flood.append(JobId("a", answer.json()["id"]))

    with ThreadPoolExecutor(3) as pool:
        posting = [pool.submit(post) for _ in range(3)]
        try:
            wait_until(lambda: len(flood) > 3 * WINDOW, 60, "more is asked for than can be done")
            before = ended(service, flood)
            started = time.monotonic()
            long = service.submit(batch()[: 3 * ITEMS_PER_SHARD], tenant="b", priority="normal")
            single = service.submit(batch()[:1], tenant="b", priority="normal")
            wait_until(partial(is_committed, service, long, 3), 60, "the other tenant's shards are done")
            wait_until(partial(is_committed, service, single, 1), 60, "the other tenant's image is done")
            served_first = ended(service, flood) - before
        finally:
            stop.set()
    assert [each.exception() for each in posting] == [None] * len(posting)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(service.cancel, flood))

    service.healed("jobs of one shard without a pause, until another tenant's are done", long, started)
    # As above; and what was sent in the moment before feed had noted that somebody waits.
    assert served_first <= WINDOW + 2 * 4 + len(EXPLAIN), f"of {len(flood)}"
    wait_until(lambda: not service.state.open_jobs(), 60, "the flood is over")


def ended(service: Service, jobs: list[JobId]) -> int:
    """How many jobs of one shard are committed."""
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda job: service.storage.exists(keys.commit(job, 0, 0)), list(jobs)))


def is_committed(service: Service, job: JobId, shards: int) -> bool:
    """Whether all of its shards are."""
    return commits(service, job) == shards


def commits(service: Service, job: JobId) -> int:
    """How many shards of a job are committed."""
    return len(records.committed(service.storage, job).shards)
