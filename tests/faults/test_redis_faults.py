"""Redis dies, forgets, hangs, refuses or crawls in the middle of a job."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis

from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from tests.faults.history import History
from tests.faults.photos import slow as slow_photos
from tests.faults.service import PATIENCE_SECONDS, Service, batch
from tests.faults.stack import SHORT, wait_until

AWAY_SECONDS = 4.0
# A process that ends by itself takes its time.
KEPT_UP_SECONDS = 3


def killed_and_restarted(service: Service) -> None:
    service.stack.kill_redis(forget=False)
    time.sleep(1)
    service.stack.start_redis()


def killed_and_restarted_empty(service: Service) -> None:
    service.stack.kill_redis(forget=True)
    time.sleep(1)
    service.stack.start_redis()


def flushed(service: Service) -> None:
    command(service, "FLUSHALL")


def connections_cut(service: Service) -> None:
    command(service, "CLIENT", "KILL", "TYPE", "normal")
    command(service, "CLIENT", "KILL", "TYPE", "pubsub")


def paused(service: Service) -> None:
    command(service, "CLIENT", "PAUSE", str(round(AWAY_SECONDS * 1000)))
    time.sleep(AWAY_SECONDS)


def out_of_memory(service: Service) -> None:
    command(service, "CONFIG", "SET", "maxmemory", "1")
    time.sleep(AWAY_SECONDS)
    command(service, "CONFIG", "SET", "maxmemory", "0")


def slow(service: Service) -> None:
    until = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < until:
        # The next command waits for the end of this pause, like everybody else's.
        command(service, "CLIENT", "PAUSE", "200")


FAULTS: dict[str, Callable[[Service], None]] = {
    "killed, with persistence": killed_and_restarted,
    "killed, without persistence": killed_and_restarted_empty,
    "FLUSHALL": flushed,
    "connections cut": connections_cut,
    "paused": paused,
    "out of memory": out_of_memory,
    "slow": slow,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_redis_is(service: Service, fault: str) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)
    service.wait_for_claims(job)

    FAULTS[fault](service)
    healed_while_kept_up(service, f"Redis {fault}", job).check(batch(), service.reference(batch()))
    assert service.most_attempts(job) <= 2
    # And everybody takes messages again.
    service.warm_up()


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "still open"])
def test_redis_comes_back_with_an_older_state_and_a_job_was_cancelled_since(service: Service, ended: bool) -> None:
    job = service.submit(slow_photos(64))
    service.wait_for_commits(job)
    command(service, "SAVE")
    folder, kept = service.stack.folder / "redis", service.stack.folder / "older"
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    if ended:
        service.cancel(job)
        service.wait(job)
    else:
        # The marker is durable; Redis dies before it is told.
        service.storage.write_once(keys.cancelled(job), b"{}")
    service.stack.kill_redis(forget=True)
    committed = records.committed(service.storage, job).succeeded
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    service.stack.start_redis()

    history = healed_while_kept_up(service, f"Redis as it was before a cancel, job {'ended' if ended else 'open'}", job)
    wait_until(lambda: not service.state.open_jobs(), PATIENCE_SECONDS, "Redis has forgotten the job")
    service.warm_up()
    assert history.final().state == "cancelled"
    # What lay in the queue commits until Redis is told; where the control worker has to be started again, all of it.
    assert len(history.rows()) <= committed + 4 * int(SHORT["window_shards"]) * (not ended)


def healed_while_kept_up(service: Service, row: str, job: JobId) -> History:
    """As `healed`, from now on, while what has ended is started again, as whoever keeps the processes up does.

    A control worker whose threads lose their broker all at once may end by an error of Celery's own.
    """
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(service.healed, row, job, time.monotonic())
        for _ in range(KEPT_UP_SECONDS):
            service.stack.supervise()
            time.sleep(1)
        return history.result()


def command(service: Service, *words: str) -> None:
    """Send one command, on a connection of its own that may be cut by it."""
    with closing(redis.Redis.from_url(service.stack.redis_url)) as client:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
