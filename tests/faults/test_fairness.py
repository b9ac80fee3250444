"""A tenant floods the service, another sends one image; and Redis holds a window of work, whatever the job's size."""

import time
from functools import partial

import pytest

from heatmill import records
from heatmill.keys import JobId
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


def is_committed(service: Service, job: JobId, shards: int) -> bool:
    """Whether all of its shards are."""
    return commits(service, job) == shards


def commits(service: Service, job: JobId) -> int:
    """How many shards of a job are committed."""
    return len(list(records.committed_numbers(service.storage, job)))
