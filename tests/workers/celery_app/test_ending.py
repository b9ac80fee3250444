"""A worker says that it lives and why it ends, and rests when its machine could do no work."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery.worker import state as celery_state
from structlog.testing import capture_logs

from heatmill.coordination.conditions import unfit_workers
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.live_workers import live_workers
from heatmill.coordination.rests import count_end, rest_seconds
from heatmill.settings import Settings
from heatmill_workers.celery_app import ending

PLACE = "machine/explain@x"
CHILD = "from heatmill_workers.celery_app.ending import end_worker; end_worker('no driver')"


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process listens, as a worker's parent does."""
    former = signal.getsignal(ending.SIGNAL)
    monkeypatch.setattr(celery_state, "should_stop", None)
    # Far longer than the test run.
    monkeypatch.setattr(ending, "PATIENCE_SECONDS", 86_400.0)
    ending.listen_to_children()
    yield
    signal.signal(ending.SIGNAL, former)
    ending._ENDING.clear()
    ending._LISTENERS.clear()


@pytest.mark.usefixtures("listening")
def test_a_child_that_finds_no_use_ends_its_parent_with_a_status_and_one_line() -> None:
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)

    assert celery_state.should_stop == 1
    assert (child.stdout + child.stderr).count("no driver") == 1


@pytest.mark.usefixtures("listening")
def test_a_worker_without_children_ends_itself_and_not_who_started_it() -> None:
    with capture_logs() as logs:
        ending.end_worker("no driver")

    assert celery_state.should_stop == 1
    assert [entry["reason"] for entry in logs] == ["no driver"]


@pytest.mark.usefixtures("listening")
def test_a_process_that_cannot_be_set_up_says_why_and_ends_the_worker(state: RedisJobStore) -> None:
    def fail() -> None:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    with capture_logs():
        ending.end_unless_it_opens(state, PLACE, fail)

    assert celery_state.should_stop == 1
    assert unfit_workers(state) == {PLACE: "ImportError: libcudart.so.13: cannot open shared object file"}
    assert rest_seconds(state, PLACE) > 0


@pytest.mark.usefixtures("listening")
def test_a_worker_lives_until_it_ends(state: RedisJobStore) -> None:
    stopped = ending.say_that_it_lives(state, PLACE)
    assert live_workers(state) == {PLACE}
    ending.say_that_it_ends(state, PLACE)
    assert not live_workers(state)
    # Else it would live on in this process, and tests after this one would wait for its opinion.
    stopped.set()


def test_a_worker_rests_as_long_as_its_ends_say(
    settings: Settings, state: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("heatmill_workers.celery_app.ending.time.sleep", rests.append)
    with capture_logs():
        ending.rest(settings.redis_url, PLACE)
        count_end(state, PLACE)
        ending.rest(settings.redis_url, PLACE)
        ending.rest("redis://127.0.0.1:1/0", PLACE)

    assert rests == [5.0]


def test_a_worker_that_does_not_start_says_why(settings: Settings, state: RedisJobStore) -> None:
    ending.tell_unfit(settings.redis_url, PLACE, "models.toml: no such file")
    assert unfit_workers(state) == {PLACE: "models.toml: no such file"}
    ending.tell_unfit("rediss+sentinel://nowhere", PLACE, "the setting names no Redis")


def test_the_parent_of_the_test_run_is_not_asked_to_end() -> None:
    assert os.getpid() not in ending._LISTENERS
