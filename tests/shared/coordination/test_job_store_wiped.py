"""A Redis that was wiped, or is away: no half jobs, work in progress goes on, and nothing is lost."""

from collections.abc import Callable
from contextlib import closing

import pytest

from heatmill.coordination.job_store import Claim, RedisJobStore, open_state
from heatmill.coordination.schedule import Sent, Window
from heatmill.coordination.shard_set import CommittedTotals, ShardSet
from heatmill.errors import QueueUnavailable
from heatmill.local.ports import LOOPBACK, free_ports
from tests.shared.known_jobs import JOB, LONG, counts, known, taken, told

CALLS: dict[str, Callable[[RedisJobStore], object]] = {
    "take_next_shard": lambda state: state.take_next_shard(JOB, LONG),
    "claim": lambda state: state.claim(JOB, 0, "a", LONG),
    "heartbeat": lambda state: state.heartbeat(JOB, 0, "a", LONG),
    "release": lambda state: state.release(JOB, 0, "a", 0),
    "commit": lambda state: state.commit(JOB, told(0, 1, 0)),
    "cancel": lambda state: state.cancel(JOB),
    "is_cancelled": lambda state: state.is_cancelled(JOB),
    "progress": lambda state: state.progress(JOB),
    "forget": lambda state: state.forget(JOB),
    "give_back": lambda state: state.schedule.give_back([Sent(JOB, 0, 3)]),
    "fill": lambda state: state.schedule.fill(Window(8, ["explain"]), LONG, 16, 16),
    "mend": lambda state: list(state.schedule.mend([JOB])),
    "note_planning": lambda state: state.schedule.note_planning(JOB),
    "mark_in_progress": lambda state: state.mark_in_progress(JOB, 0, 1),
    "suspects": lambda state: state.suspects(JOB, 0),
    "clear_mark": lambda state: state.clear_mark(JOB, 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_call_on_a_forgotten_job_half_creates_it(state: RedisJobStore, name: str) -> None:
    known(state)
    state.take_next_shard(JOB, LONG)
    state.claim(JOB, 0, "a", LONG)
    state.client.flushall()
    CALLS[name](state)
    assert state.progress(JOB) is None
    assert state.open_jobs() == []
    assert all(state.client.ttl(entry) > 0 for entry in state.client.scan_iter())


def test_work_in_progress_survives_a_wipe(state: RedisJobStore) -> None:
    known(state)
    state.claim(JOB, 0, "a", LONG)
    state.client.flushall()
    assert state.heartbeat(JOB, 0, "a", LONG), "before repair has come"
    known(state)
    assert state.heartbeat(JOB, 0, "a", LONG), "after it"
    assert state.claim(JOB, 0, "b", LONG) == "claimed"
    assert taken(state) == [1, 2], "what is at work is not sent again"
    state.release(JOB, 0, "a", 0)
    assert state.claim(JOB, 0, "b", LONG) == Claim("b", 1), "attempts never go below the first"


def test_a_shard_committed_while_a_rebuild_was_reading_is_found_in_the_end(state: RedisJobStore) -> None:
    read_before = CommittedTotals(ShardSet.of((0,)), 1, 0)
    state.commit(JOB, told(1, 1, 0))  # its record is stored; Redis knows no such job and counts nothing
    known(state, committed=read_before)
    assert counts(state) == (1, 1, 0)
    assert taken(state) == [1, 2], "it is sent again"
    assert isinstance(state.claim(JOB, 1, "b", LONG), Claim)
    state.commit(JOB, told(1, 1, 0))  # by whoever finds the record
    assert counts(state) == (2, 2, 0)


def test_a_redis_that_is_away_is_unavailable() -> None:
    away = open_state(f"redis://{LOOPBACK}:{free_ports(1)[0]}/0")
    with closing(away.client):
        for call in (*CALLS.values(), RedisJobStore.open_jobs, RedisJobStore.ping):
            with pytest.raises(QueueUnavailable, match="does not answer"):
                call(away)
