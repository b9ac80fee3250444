"""A Celery worker's child learns that its worker stops, and a child that hangs is replaced; with a real worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from celery import Celery

from heatmill.coordination.job_store import RedisJobStore
from heatmill.local.environment import inherited
from heatmill.settings import Settings
from tests.workers.celery_app.stoppable import QUEUE, SEEN


@contextmanager
def worker(settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**inherited(), "HEATMILL_REDIS_URL": settings.redis_url}
    command = ["-m", "celery", "-A", "tests.workers.celery_app.stoppable:app", "worker", "-Q", QUEUE, "-l", "WARNING"]
    process = subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def seen(state: RedisJobStore, count: int) -> list[str]:
    """What the tasks have noted, once there is so much of it."""
    deadline = time.monotonic() + 60
    while (found := state.client.llen(SEEN)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found >= count
    return [str(what) for what in state.client.lrange(SEEN, 0, -1)]


def test_a_child_at_work_learns_that_its_worker_stops(settings: Settings, state: RedisJobStore) -> None:
    client = Celery(broker=settings.redis_url, set_as_current=False)
    client.send_task("wait", queue=QUEUE, ignore_result=True)
    with worker(settings) as process:
        assert seen(state, 1) == ["waits"]
        process.send_signal(signal.SIGTERM)

        assert process.wait(20) == 0
        assert seen(state, 2) == ["waits", "stops"]
        assert state.client.llen(QUEUE) == 0


def test_a_child_that_hangs_ends_and_its_message_is_taken_again(settings: Settings, state: RedisJobStore) -> None:
    client = Celery(broker=settings.redis_url, set_as_current=False)
    client.send_task("hang", queue=QUEUE, ignore_result=True)
    with worker(settings) as process:
        assert seen(state, 2)[:2] == ["hangs", "hangs"]
        assert process.poll() is None
