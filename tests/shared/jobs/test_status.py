"""A job's state follows from its counts, whoever asks, also when Redis has forgotten it."""

from contextlib import closing
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatmill.coordination.job_store import Claim, RedisJobStore, open_state
from heatmill.coordination.progress import JobProgress
from heatmill.errors import JobNotFound
from heatmill.jobs import records
from heatmill.jobs import status as progress
from heatmill.jobs.planner import inline_items, write_plan
from heatmill.jobs.registration import register
from heatmill.jobs.status import derive_state, job_from_progress, load_job
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.schemas import Counts, Item, Job, JobState, Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId, ShardId
from tests.shared.accepted import accepted_job, store
from tests.shared.known_jobs import told

STATES = set(get_args(JobState))
TERMINAL = {"succeeded", "partly_failed", "failed", "cancelled"}
NUMBER = st.integers(0, 50)
COUNTS = st.builds(
    lambda succeeded, failed, cancelled, left: Counts(
        total=succeeded + failed + cancelled + left, succeeded=succeeded, failed=failed, cancelled=cancelled
    ),
    *(NUMBER, NUMBER, NUMBER, NUMBER),
) | st.builds(Counts, total=st.none(), succeeded=NUMBER, failed=NUMBER)


@given(counts=COUNTS, started=st.booleans())
def test_a_state_is_one_of_six_and_terminal_when_all_is_done(counts: Counts, started: bool) -> None:
    state = derive_state(counts, started=started)
    assert state in STATES
    assert (state in TERMINAL) == (counts.total is not None and counts.done == counts.total)


@given(counts=COUNTS, started=st.booleans())
def test_each_state_means_what_it_says(counts: Counts, started: bool) -> None:
    meaning = {
        "queued": not started and counts.done == 0,
        "running": started or counts.done > 0,
        "succeeded": counts.succeeded > 0 and counts.failed == counts.cancelled == 0,
        "partly_failed": counts.succeeded > 0 and counts.failed > 0 and counts.cancelled == 0,
        "failed": counts.succeeded == counts.cancelled == 0,
        "cancelled": counts.cancelled > 0,
    }
    assert meaning[derive_state(counts, started=started)]


@given(counts=COUNTS, started=st.none() | st.floats(0, 2e9), items=st.none() | NUMBER)
def test_an_open_job_is_never_shown_as_terminal_and_its_numbers_are_sound(
    counts: Counts, started: float | None, items: int | None
) -> None:
    summary = progress.summary(accepted_job())
    known = JobProgress(counts, items, None, 0, 0, cancelled=False, started_at=started, summary=summary)
    shown = job_from_progress(JobId("tenant", "job"), known)
    assert shown.state in {"queued", "running"}
    assert not shown.done
    assert 0 <= shown.progress <= 1
    assert shown.eta_seconds is None or shown.eta_seconds >= 0


@pytest.fixture
def job(storage: S3Storage) -> JobId:
    """Four items in two shards, one method, planned."""
    accepted = accepted_job(items=[{"image": f"s3://b/{n}"} for n in range(4)], methods=[{"name": "m"}])
    job = store(storage, accepted)
    write_plan(storage, job, accepted, inline_items(accepted.request.items or ()))
    return job


def commit(storage: S3Storage, job: JobId, shard: int) -> None:
    rows = [Row(item="i", index=n, method="m", rank=0, status="succeeded") for n in range(2)]
    storage.write_once(keys.commit(job, shard), records.commit_record(ShardId(job, shard), rows, 1.0, "w")[1])


def test_an_unknown_job_is_not_found(storage: S3Storage, state: RedisJobStore) -> None:
    with pytest.raises(JobNotFound):
        load_job(storage, state, JobId("tenant", "unknown"))
    with pytest.raises(JobNotFound):
        register(storage, state, JobId("tenant", "unknown"))


def test_redis_and_the_store_tell_the_same(storage: S3Storage, state: RedisJobStore, job: JobId) -> None:
    from_store = load_job(storage, state, job)
    register(storage, state, job)
    assert load_job(storage, state, job) == from_store
    assert (from_store.state, from_store.counts) == ("queued", Counts(total=4))
    commit(storage, job, 0)
    state.commit(job, told(0, 2, 0))
    from_redis = load_job(storage, state, job)
    state.client.flushall()
    assert load_job(storage, state, job) == from_redis
    assert (from_redis.state, from_redis.counts, from_redis.progress) == ("running", Counts(total=4, succeeded=2), 0.5)


def test_a_job_is_readable_while_redis_is_away(storage: S3Storage, job: JobId) -> None:
    commit(storage, job, 1)
    away = open_state(f"redis://{LOOPBACK}:{free_ports(1)[0]}/0")
    with closing(away.client):
        assert load_job(storage, away, job).counts == Counts(total=4, succeeded=2)


def test_a_job_whose_source_is_not_listed_yet_is_queued(storage: S3Storage, state: RedisJobStore) -> None:
    job = store(storage, accepted_job())
    for _ in range(2):
        shown = load_job(storage, state, job)
        assert (shown.state, shown.counts.total, shown.progress) == ("queued", None, 0)
        register(storage, state, job)


def test_a_rebuild_knows_what_is_committed_and_sends_the_rest(
    storage: S3Storage, state: RedisJobStore, job: JobId
) -> None:
    commit(storage, job, 0)
    register(storage, state, job)
    assert state.take_next_shard(job, 60) == 1
    assert state.take_next_shard(job, 60) is None
    assert state.claim(job, 0, "a", 60) == "committed"
    assert isinstance(state.claim(job, 1, "a", 60), Claim)


def test_a_rebuild_knows_that_the_job_was_cancelled(storage: S3Storage, state: RedisJobStore, job: JobId) -> None:
    storage.put(keys.cancelled(job), b"")
    register(storage, state, job)
    assert state.is_cancelled(job)
    assert state.take_next_shard(job, 60) is None


def test_a_claimed_job_is_running_and_has_a_start(storage: S3Storage, state: RedisJobStore, job: JobId) -> None:
    register(storage, state, job)
    state.claim(job, 0, "a", 60)
    shown = load_job(storage, state, job)
    assert shown.state == "running"
    assert shown.started_at is not None
    assert (shown.items_per_second, shown.eta_seconds) == (None, None)
    state.commit(job, told(0, 2, 0))
    shown = load_job(storage, state, job)
    assert shown.items_per_second is not None
    assert shown.eta_seconds is not None


def test_a_terminal_job_is_read_from_the_store(storage: S3Storage, state: RedisJobStore, job: JobId) -> None:
    shown = load_job(storage, state, job)
    final = Job.model_validate({**shown.model_dump(), "state": "failed", "done": True, "progress": 1})
    storage.write_once(keys.final(job), final.model_dump_json().encode())
    assert load_job(storage, state, job) == final


def test_items_are_not_results(storage: S3Storage, state: RedisJobStore) -> None:
    accepted = accepted_job(items=[{"image": "s3://b/0"}, {"image": "s3://b/1", "target": 3}], top_k=5)
    job = store(storage, accepted)
    write_plan(storage, job, accepted, lambda after: iter([Item(index=0, id="0"), Item(index=1, id="1", target=3)]))
    register(storage, state, job)
    known = state.progress(job)
    assert known is not None
    assert (known.items, known.counts.total) == (2, 2 * (5 + 1))
