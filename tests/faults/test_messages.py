"""Messages that come twice, in another order, for jobs that want none, or that nobody can read."""

import json
import time
from base64 import b64encode
from typing import cast
from uuid import uuid4

import pytest
from celery import Celery

from heatmill.coordination.task_queue import EXPLAIN, Dispatcher
from heatmill.storage.keys import JobId
from tests.faults.history import History
from tests.faults.photos import slow
from tests.faults.service import EXPLAIN as WORKERS
from tests.faults.service import Service, batch


@pytest.fixture
def bell(service: Service) -> Dispatcher:
    """Sends messages by hand."""
    return Dispatcher(Celery("heatmill", broker=service.stack.redis_url, set_as_current=False))


def test_every_message_is_delivered_three_times_and_out_of_order(service: Service, bell: Dispatcher) -> None:
    started = time.monotonic()
    job = service.submit(batch())
    service.wait_for_claims(job)
    for _ in range(3):
        for shard in reversed(range(6)):
            bell.explain(job, shard, "normal")

    history = service.healed("messages three times and in reverse order, from submission", job, started)
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1
    written = [path for method, path in service.proxy.seen if method == "PUT" and "/heatmaps/" in path]
    assert sorted(written) == sorted(set(written)), "nothing is done twice"


def test_a_message_for_a_finished_cancelled_or_unknown_job_changes_nothing(service: Service, bell: Dispatcher) -> None:
    finished = service.wait(service.submit(batch()[:4]))
    cancelled = service.submit(batch())
    service.cancel(cancelled)
    ended = service.wait(cancelled)
    before = objects(finished), objects(ended)

    for job in (finished.job, cancelled, JobId("a", uuid4().hex), JobId("nobody", "no-job")):
        bell.explain(job, 0, "interactive")
        bell.explain(job, 999, "interactive")
    through(service)

    assert (objects(finished), objects(ended)) == before
    assert not service.state.open_jobs()


UNREADABLE = {
    "no JSON": "\x00\xff nonsense",
    "no message": json.dumps({"hello": "world"}),
    "a message of another kind": json.dumps({"properties": 7}),
    "a list": json.dumps([1, 2]),
    "a body that is no JSON": "body",
    "an unknown task": "task",
    "a task that is no name": "name",
    "no body": "nobody",
    "an id that is no name": "id",
    "a tag that is no name": "tag",
    "not before 2030": "eta",
    "other arguments": "arguments",
    "a time limit that is no time": "limit",
    "Celery's older protocol": "protocol 1",
    "text that JSON cannot say": '{"__type__": "uuid", "__value__": 7}',
}
# What is wrong with a message that is whole but for this.
DAMAGES: dict[str, dict[str, object]] = {"body": {"body": "bm90IGpzb24="}, "name": {"headers": {"task": ["a list"]}}}
DAMAGES |= {"nobody": {"body": None}, "tag": {"properties": {"delivery_tag": None}}}
DAMAGES |= {
    "protocol 1": {"headers": {}, "body": b64encode(json.dumps({"task": EXPLAIN, "id": "1"}).encode()).decode()}
}
LATER: dict[str, dict[str, object]] = {"id": {"id": [1]}, "eta": {"eta": "2030-01-01T00:00:00+00:00"}}
LATER |= {"limit": {"timelimit": "abc", "task": EXPLAIN}}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_message_is_undecodable(service: Service, bell: Dispatcher, kind: str) -> None:
    workers = [service.stack.processes[name].pid for name in WORKERS]
    job = service.submit(batch())
    service.wait_for_commits(job)
    if UNREADABLE[kind] == "task":
        bell.app.send_task("heatmill.unknown", args=[], queue="explain", priority=0)
    elif UNREADABLE[kind] == "arguments":
        bell.app.send_task(EXPLAIN, args=["a", 7, "x", None], queue="explain", priority=0)
    elif UNREADABLE[kind] in LATER:
        whole = message(service, bell)
        headers = cast("dict[str, object]", whole["headers"]) | LATER[UNREADABLE[kind]]
        service.state.client.rpush("explain", json.dumps(whole | {"headers": headers}))
    elif UNREADABLE[kind] in DAMAGES:
        service.state.client.rpush("explain", json.dumps(message(service, bell) | DAMAGES[UNREADABLE[kind]]))
    else:
        service.state.client.rpush("explain", UNREADABLE[kind])
    sent = time.monotonic()

    history = service.healed(f"message that cannot be read: {kind}", job, sent)
    history.check(batch(), service.reference(batch()))
    through(service)
    assert service.queued() == 0
    assert [service.stack.processes[name].pid for name in WORKERS] == workers, "no worker ends"


def message(service: Service, bell: Dispatcher) -> dict[str, object]:
    """One as Celery sends it."""
    bell.app.send_task("heatmill.feed", args=[], queue="spare")
    whole = service.state.client.rpop("spare:3") or service.state.client.rpop("spare")
    return dict(json.loads(str(whole)))


def through(service: Service) -> None:
    """Return when everything that was sent before has been taken: both workers are through with a job sent later."""
    service.stack.supervise()
    service.warm_up()


def objects(history: History) -> list[tuple[str, object]]:
    """All that is stored of a job, and when it was."""
    return [(entry.key, entry.modified) for entry in history.storage.list(history.job.prefix)]


def test_a_cancelled_job_commits_nothing_after_one_more_batch(service: Service) -> None:
    photos = slow(48)
    job = service.submit(photos)
    service.wait_for_commits(job)
    service.cancel(job)
    asked = time.monotonic()

    history = service.healed("cancel", job, asked)
    committed = len(history.rows())
    final = history.final()
    assert final.state == "cancelled"
    assert final.counts.cancelled == len(photos) - committed > 0
    through(service)
    assert len(history.rows()) == committed, "what was in the queue commits nothing"
