"""A tenant's jobs in order, from Redis or from the store."""

import json
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import uuid4

import pytest

from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.jobs import index as job_index
from heatmill.schemas import AcceptedJob, ItemRequest, JobRequest, MethodRequest
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

START = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = JobRequest(model="m", methods=(MethodRequest(name="saliency"),), items=(ItemRequest(image="x"),))
NOBODY = "redis://127.0.0.1:9/0"


def job(tenant: str, seconds: float) -> AcceptedJob:
    return AcceptedJob(
        id=uuid4().hex,
        tenant=tenant,
        created_at=START + timedelta(seconds=seconds),
        request=REQUEST,
        fingerprint="0" * 64,
        shard_items=1,
        priority="normal",
    )


def store(storage: S3Storage, jobs: list[AcceptedJob]) -> None:
    for one in jobs:
        storage.put(keys.request(JobId(one.tenant, one.id)), one.model_dump_json().encode())


def listed(storage: S3Storage, state: RedisJobStore, tenant: str, before: str = "") -> list[str]:
    return [job_index.job_of(entry) for entry in job_index.newest_first(storage, state, tenant, before)]


def test_many_jobs_come_newest_first(storage: S3Storage, state: RedisJobStore) -> None:
    jobs = [job("many", number) for number in range(250)]
    for one in jobs:
        job_index.add(state, one)
    assert listed(storage, state, "many") == [one.id for one in reversed(jobs)]


def test_jobs_of_one_moment_have_an_order_too(storage: S3Storage, state: RedisJobStore) -> None:
    jobs = [job("moment", 0) for _ in range(5)]
    for one in jobs:
        job_index.add(state, one)
    first, *rest = listed(storage, state, "moment")
    entry = next(job_index.entry(one) for one in jobs if one.id == first)
    assert listed(storage, state, "moment", before=entry) == rest


def test_adding_a_job_again_changes_nothing(storage: S3Storage, state: RedisJobStore) -> None:
    one = job("again", 0)
    job_index.add(state, one)
    job_index.add(state, one)
    assert listed(storage, state, "again") == [one.id]


def test_what_redis_forgot_is_read_from_the_store_once(storage: S3Storage, state: RedisJobStore) -> None:
    old, new = job("forgot", 0), job("forgot", 1)
    store(storage, [old])
    job_index.add(state, new)
    assert listed(storage, state, "forgot") == [new.id, old.id]
    storage.delete([keys.request(JobId("forgot", old.id))])
    assert listed(storage, state, "forgot") == [new.id, old.id]


def test_a_rebuild_reads_the_beginnings_of_long_records(
    storage: S3Storage, state: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = tuple(ItemRequest(id=f"photo {number}", image="x" * 100) for number in range(100))
    jobs = [job("long", number) for number in range(3)]
    store(storage, [one.model_copy(update={"request": REQUEST.model_copy(update={"items": items})}) for one in jobs])
    sizes = []
    get = storage.get

    def measured(key: str, max_bytes: int | None = None) -> bytes:
        sizes.append(len(data := get(key, max_bytes)))
        return data

    monkeypatch.setattr(storage, "get", measured)
    assert listed(storage, state, "long") == [one.id for one in reversed(jobs)]
    assert max(sizes) <= 1024


def test_a_record_in_another_order_is_listed_too(storage: S3Storage, state: RedisJobStore) -> None:
    one = job("order", 0)
    fields = one.model_dump(mode="json")
    text = json.dumps({"request": fields["request"], **fields}, indent=1)
    storage.put(keys.request(JobId("order", one.id)), text.encode())
    assert list(job_index.newest_first(storage, state, "order")) == [job_index.entry(one)]


def test_the_store_alone_gives_the_same_order(storage: S3Storage) -> None:
    jobs = [job("store", number) for number in (3, 1, 2)]
    store(storage, jobs)
    nobody = open_state(NOBODY)
    by_age = [jobs[0].id, jobs[2].id, jobs[1].id]
    assert listed(storage, nobody, "store") == by_age
    assert listed(storage, nobody, "store", before=job_index.entry(jobs[0])) == by_age[1:]


def test_a_listing_goes_on_where_redis_falls_silent(storage: S3Storage, redis_url: str, state: RedisJobStore) -> None:
    jobs = [job("silent", number) for number in range(job_index.PAGE + 5)]
    store(storage, jobs)
    entries = job_index.newest_first(storage, state, "silent")
    begun = list(islice(entries, job_index.PAGE))
    state.client.connection_pool.disconnect()
    state.client.connection_pool.connection_kwargs["port"] = 9
    found = [job_index.job_of(entry) for entry in [*begun, *entries]]
    assert found == [one.id for one in reversed(jobs)]


def test_tenants_do_not_see_each_other(storage: S3Storage, state: RedisJobStore) -> None:
    job_index.add(state, job("ann", 0))
    assert listed(storage, state, "an") == []
    assert listed(storage, state, "bob") == []


def test_redis_keeps_the_newest_and_older_ones_are_read_from_the_store(
    storage: S3Storage, state: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_index, "CACHED", 20)
    jobs = [job("capped", number) for number in range(60)]
    newest_first = [one.id for one in reversed(jobs)]
    store(storage, jobs[:30])
    for one in jobs[:30]:
        job_index.add(state, one)
    assert listed(storage, state, "capped") == newest_first[30:]
    store(storage, jobs[30:])
    for one in jobs[30:]:
        job_index.add(state, one)
    # As repair does with a job that stays open for long.
    job_index.add(state, jobs[3])

    assert state.client.zcard("heatmill:{capped}:jobs") <= 22
    assert listed(storage, state, "capped") == newest_first
    for place in (0, 10, 25, 50, 59):
        before = job_index.entry(next(one for one in jobs if one.id == newest_first[place]))
        assert listed(storage, state, "capped", before) == newest_first[place + 1 :]
    state.client.flushall()
    assert listed(storage, state, "capped") == newest_first
    assert state.client.zcard("heatmill:{capped}:jobs") == 20
