"""What Redis must know of a job."""

import pytest
import redis

from heatmill.coordination.job_store import RedisJobStore
from heatmill.errors import QueueUnavailable
from heatmill.jobs import index as job_index
from heatmill.jobs.registration import register, register_new
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from tests.shared.accepted import accepted_job, store


def test_a_job_is_in_the_list_before_the_state_knows_it(
    storage: S3Storage, state: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = accepted_job()
    job = store(storage, accepted)

    def lost(*_: object, **__: object) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(state.client, "zadd", lost)
    with pytest.raises(QueueUnavailable):
        register_new(state, accepted, None)
    assert state.progress(job) is None
    monkeypatch.undo()
    register(storage, state, job)
    assert state.open_jobs() == [job]
    assert listed(storage, state) == [job]


def test_a_new_job_is_known_and_listed(storage: S3Storage, state: RedisJobStore) -> None:
    accepted = accepted_job()
    job = store(storage, accepted)
    register_new(state, accepted, None)
    known = state.progress(job)
    assert known is not None
    assert (known.shards, known.summary["model"]) == (None, "m")
    assert job in listed(storage, state)


def listed(storage: S3Storage, state: RedisJobStore) -> list[JobId]:
    """The tenant's jobs, from Redis."""
    state.client.set("heatmill:{tenant}:jobs:floor", "0")
    return [JobId("tenant", job_index.job_of(entry)) for entry in job_index.newest_first(storage, state, "tenant")]
