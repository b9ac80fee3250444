"""One message of a kind at a time: what waits already is not sent again."""

import pytest

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.rings import Rings
from heatmill.coordination.task_queue import FEED, FINISH, PLAN, Dispatcher, celery_app
from heatmill.errors import QueueUnavailable
from heatmill.settings import Settings
from heatmill.storage.keys import JobId

JOB, OTHER = JobId("a", "1"), JobId("a", "2")


def waiting(state: RedisJobStore) -> int:
    return state.waiting(["control"])


def test_a_job_has_one_message_of_each_kind_under_way(dispatcher: Dispatcher, state: RedisJobStore) -> None:
    for _ in range(3):
        dispatcher.plan(JOB)
        dispatcher.plan(OTHER)
        dispatcher.finish(JOB)
        dispatcher.sweep(JOB)
        dispatcher.feed()
    assert waiting(state) == 5


def test_the_next_message_is_sent_once_the_one_before_is_taken(dispatcher: Dispatcher, state: RedisJobStore) -> None:
    rings = Rings(state.client)
    dispatcher.feed()
    dispatcher.plan(JOB)
    rings.taken(FEED)
    dispatcher.feed()
    dispatcher.plan(JOB)
    assert waiting(state) == 3
    rings.taken(PLAN, JOB)
    rings.taken(FINISH, JOB)
    dispatcher.plan(JOB)
    assert waiting(state) == 4


def test_a_message_that_was_lost_is_missed_for_a_while_only(dispatcher: Dispatcher, state: RedisJobStore) -> None:
    dispatcher.plan(JOB)
    assert [0 < state.client.pttl(name) <= 30_000 for name in state.client.scan_iter("heatmill:rung:*")] == [True]


def test_a_message_that_could_not_be_sent_is_not_under_way(settings: Settings, state: RedisJobStore) -> None:
    rings = Rings(state.client)
    away = Dispatcher(celery_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"}), "test"), rings)
    with pytest.raises(QueueUnavailable):
        away.plan(JOB)
    assert rings.is_first(PLAN, JOB)
