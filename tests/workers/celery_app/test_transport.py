"""Of what lies in a queue, Celery sees what the dispatcher sends, and nothing else."""

import base64
import json
from typing import Any

import pytest

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import EXPLAIN, Dispatcher
from heatmill.storage.keys import JobId
from heatmill_workers.celery_app.transport import EMBEDDED, as_sent

JOB = JobId("a", "0" * 32)


@pytest.fixture
def message(dispatcher: Dispatcher, state: RedisJobStore) -> Any:
    """One as it lies in Redis."""
    dispatcher.explain(JOB, 7, "normal")
    return json.loads(str(state.client.rpop("explain:3")))


def test_a_message_keeps_what_the_dispatcher_says(message: Any) -> None:
    taken = as_sent(message, "explain")

    assert taken["headers"] == {"lang": "py", "id": message["headers"]["id"], "task": EXPLAIN}
    assert decoded(taken["body"]) == [[JOB.tenant, JOB.job, 7], {}, EMBEDDED]
    for kept in ("priority", "delivery_tag", "body_encoding", "delivery_mode"):
        assert taken["properties"][kept] == message["properties"][kept]
    assert as_sent(taken, "explain") == taken, "it goes back as it is when nobody acknowledges it"


@pytest.mark.parametrize(
    "header",
    [
        {"timelimit": "abc"},
        {"timelimit": ["x", "y"]},
        {"timelimit": [-1, -1]},
        {"ignore_result": "no"},
        {"stamped_headers": 5, "stamps": 7},
        {"replaced_task_nesting": "x"},
        {"shadow": [1], "root_id": {}, "group": [1], "retries": "x", "origin": 5},
    ],
    ids=str,
)
def test_what_else_celery_would_act_on_is_left_out(message: Any, header: dict[str, Any]) -> None:
    plain = as_sent(message, "explain")
    message["headers"] |= header
    message["properties"] |= {"correlation_id": 5, "delivery_info": {"exchange": "elsewhere", "routing_key": "x"}}

    assert as_sent(message, "explain") == plain


@pytest.mark.parametrize("arguments", [[["a"]], [{"__type__": "bytes"}], [None], [1.5]], ids=str)
def test_arguments_that_are_no_ids_are_no_message(message: Any, arguments: list[Any]) -> None:
    message["body"] = encoded([arguments, {}, EMBEDDED])

    with pytest.raises(ValueError, match="body"):
        as_sent(message, "explain")


@pytest.mark.parametrize("rest", [[{"job": "x"}, EMBEDDED], [{}, {"callbacks": ["x"]}], [{}]], ids=str)
def test_named_arguments_and_callbacks_are_no_message(message: Any, rest: list[Any]) -> None:
    message["body"] = encoded([[], *rest])

    with pytest.raises(ValueError, match="body"):
        as_sent(message, "explain")


def test_celerys_older_protocol_is_no_message(message: Any) -> None:
    task = {"task": EXPLAIN, "id": "1", "args": ["a", JOB.job, 7], "kwargs": {}, "eta": "2030-01-01T00:00:00+00:00"}
    message |= {"headers": {}, "body": encoded(task)}

    with pytest.raises(ValueError, match="headers"):
        as_sent(message, "explain")


def decoded(body: str) -> Any:
    return json.loads(base64.b64decode(body))


def encoded(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()
