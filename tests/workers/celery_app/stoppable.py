"""A Celery app set up as that of the explain workers is, with tasks that wait; without torch, so that it starts soon.

celery -A tests.workers.celery_app.stoppable:app worker ...
"""

import time
from typing import Any

import redis
from celery import Celery
from celery.signals import worker_process_init, worker_shutting_down

from heatmill.settings import Settings
from heatmill_workers.celery_app.apps import explain_settings
from heatmill_workers.celery_app.stopping import is_stopping, listen_to_parent, tell_children
from heatmill_workers.celery_app.time_limit import time_limited

SETTINGS = Settings()
QUEUE = "stoppable"
SEEN = "stoppable:seen"
WAIT_SECONDS = 30

app = Celery("stoppable", broker=SETTINGS.redis_url, set_as_current=False)
app.conf.update(explain_settings(SETTINGS), task_default_queue=QUEUE)


@worker_process_init.connect
def begin(**_: Any) -> None:
    """As tasks.warm_up does."""
    listen_to_parent()


@worker_shutting_down.connect
def end(**_: Any) -> None:
    """As tasks.stop_gently does."""
    tell_children()


@app.task(name="wait")
def wait() -> None:
    """Wait until asked to stop."""
    note("waits")
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_stopping() and time.monotonic() < deadline:
        time.sleep(0.01)
    note("stops" if is_stopping() else "has waited in vain")


@app.task(name="hang")
def hang() -> None:
    """Take longer than the time limit."""
    with time_limited(0.2):
        note("hangs")
        time.sleep(WAIT_SECONDS)


def note(what: str) -> None:
    """Let the test see it."""
    redis.Redis.from_url(SETTINGS.redis_url).rpush(SEEN, what)
