"""The durable records: what was written is what is read, and counts are what the records add up to."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatmill.coordination.shard_set import CommittedTotals, HalfDone, ShardSet
from heatmill.errors import JobNotFound
from heatmill.jobs import records
from heatmill.jobs.parts import Part, parts_of
from heatmill.schemas import Counts, Item, Job, MethodRequest, Problem, Row
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing, S3Storage, WriteConflict
from heatmill.storage.keys import JobId, ShardId
from tests.shared.accepted import accepted_job, store

PROBLEM = Problem(type="t", title="x", detail='line\n separator\u2028 "quoted" снег ☃')


def row(index: int, status: str = "succeeded") -> Row:
    error = PROBLEM if status == "failed" else None
    return Row.model_validate(
        {"item": f"id\u2028 {index}", "index": index, "method": "m", "rank": 0, "status": status, "error": error}
    )


@pytest.fixture
def job(storage: S3Storage) -> JobId:
    return store(storage, accepted_job())


def commit(
    storage: S3Storage, job: JobId, shard: int, rows: list[Row], worker: str = "w", part: Part | None = None
) -> None:
    header, record = records.commit_record(ShardId(job, shard), rows, 1.23456, worker, part)
    storage.write_once(keys.commit(job, shard, header.part), record)


def test_an_accepted_job_is_read_as_it_was_written(storage: S3Storage) -> None:
    accepted = accepted_job(items=[{"image": "s3://b/снег.png", "target": 0}], top_k=2)
    assert records.load_request(storage, store(storage, accepted)) == accepted


def test_what_is_not_there_is_none_or_says_so(storage: S3Storage) -> None:
    nothing = JobId("tenant", "nothing")
    with pytest.raises(JobNotFound, match="there is no job nothing"):
        records.load_request(storage, nothing)
    with pytest.raises(ObjectMissing):
        records.load_shard(storage, nothing, 0)
    with pytest.raises(ObjectMissing):
        list(records.load_rows(storage, nothing, 0))
    assert records.load_plan(storage, nothing) is None
    assert records.load_final(storage, nothing) is None
    assert records.load_header(storage, nothing, 0) is None
    assert records.committed(storage, nothing) == CommittedTotals()


def test_a_terminal_job_is_read_as_it_was_written(storage: S3Storage, job: JobId) -> None:
    final = Job(
        id=job.job,
        state="partly_failed",
        done=True,
        progress=1.0,
        counts=Counts(total=2, succeeded=1, failed=1),
        created_at=datetime.now(UTC),
        model="m",
        methods=(MethodRequest(name="x"),),
        priority="bulk",
        error=PROBLEM,
    )
    storage.write_once(keys.final(job), final.model_dump_json().encode())
    assert records.load_final(storage, job) == final


def test_a_shards_items_are_read_as_they_were_written_and_stay(storage: S3Storage, job: JobId) -> None:
    items = (
        Item(index=0, id="first\u2028", image="s3://b/a b.png"),
        Item(index=1, id="снег", image="upload://0", target=0),
        Item(index=2, id="line 3", error=PROBLEM),
    )
    records.store_shard(storage, job, 0, items)
    records.store_shard(storage, job, 0, items)
    assert records.load_shard(storage, job, 0) == items
    with pytest.raises(WriteConflict):
        records.store_shard(storage, job, 0, items[:2])


def test_a_commit_record_is_a_header_and_its_rows(storage: S3Storage, job: JobId) -> None:
    rows = [row(0), row(1, "failed"), row(2)]
    header, record = records.commit_record(ShardId(job, 4), rows, 1.23456, "worker")
    storage.write_once(keys.commit(job, 4), record)
    assert (header.shard, header.succeeded, header.failed, header.seconds, header.worker) == (4, 2, 1, 1.235, "worker")
    assert header.sha256 == hashlib.sha256(record.split(b"\n", 1)[1]).hexdigest()
    assert records.load_header(storage, job, 4) == header
    assert list(records.load_rows(storage, job, 4)) == rows


def test_a_header_is_found_without_reading_the_rows_whatever_the_worker_is_called(
    storage: S3Storage, job: JobId
) -> None:
    commit(storage, job, 0, [row(number) for number in range(50)], worker="п" * 255)
    commit(storage, job, 1, [])
    headers = [records.load_header(storage, job, number) for number in range(2)]
    assert [header and (header.succeeded, len(header.worker)) for header in headers] == [(50, 255), (0, 1)]


def test_commits_add_up_in_order(storage: S3Storage, job: JobId) -> None:
    for shard, failed in ((10, 0), (2, 1), (0, 2)):
        commit(storage, job, shard, [row(0)] + [row(number, "failed") for number in range(failed)])
    assert records.committed(storage, job) == CommittedTotals(ShardSet.of((0, 2, 10)), succeeded=3, failed=3)
    assert list(records.committed_names(storage, job)) == [(0, None), (2, None), (10, None)]
    assert list(records.committed_names(storage, job, start=2)) == [(2, None), (10, None)]
    assert list(records.committed_names(storage, job, start=3)) == [(10, None)]


def test_rows_that_were_not_made_are_counted_by_header_and_job(storage: S3Storage, job: JobId) -> None:
    taken = [row(n).model_copy(update={"provenance": {"cached_from": "0" * 32}}) for n in range(2)]
    commit(storage, job, 0, [row(0), *taken, row(3, "failed")])
    commit(storage, job, 1, [*taken[:1]])
    header = records.load_header(storage, job, 0)
    assert header
    assert (header.succeeded, header.failed, header.cached) == (3, 1, 2)
    assert records.committed(storage, job) == CommittedTotals(ShardSet.of((0, 1)), succeeded=4, failed=1, cached=3)


def test_a_shard_is_committed_when_all_its_parts_are(storage: S3Storage, job: JobId) -> None:
    rows = [row(0), row(1, "failed"), row(2)]
    for part in parts_of(3):
        assert records.committed(storage, job).shards == ShardSet()
        commit(storage, job, 4, rows[part.number : part.number + 1], part=part)

    assert records.committed(storage, job) == CommittedTotals(ShardSet.of([4]), succeeded=2, failed=1)
    assert list(records.load_rows(storage, job, 4)) == rows
    header = records.load_header(storage, job, 4, 1)
    assert header
    assert (header.shard, header.part, header.parts, header.items) == (4, 1, 3, (1, 2))


def test_a_half_done_shard_is_counted_by_its_parts(storage: S3Storage, job: JobId) -> None:
    first, _, third = parts_of(3)
    commit(storage, job, 0, [row(0)])
    commit(storage, job, 2, [row(6)], part=first)
    commit(storage, job, 2, [row(8, "failed")], part=third)

    found = records.committed(storage, job)

    assert found == CommittedTotals(ShardSet.of([0]), succeeded=2, failed=1, half_done={2: HalfDone(0b101, 1, 1, 0)})
    assert [(number, names) for number, names in records.committed_shards(storage, job)] == [
        (0, [(0, None)]),
        (2, [(2, 0), (2, 2)]),
    ]
    assert [found.index for found in records.load_rows(storage, job, 2)] == [6, 8]


def test_the_record_of_a_whole_shard_counts_alone_beside_those_of_its_parts(storage: S3Storage, job: JobId) -> None:
    rows = [row(0), row(1), row(2)]
    commit(storage, job, 0, rows[:1], part=parts_of(3)[0])
    commit(storage, job, 0, rows)

    assert records.committed(storage, job) == CommittedTotals(ShardSet.of([0]), succeeded=3)
    assert list(records.load_rows(storage, job, 0)) == rows


def test_a_stray_object_among_the_commit_records_is_none(storage: S3Storage, job: JobId) -> None:
    commit(storage, job, 0, [row(0)])
    storage.put(f"{keys.commits(job)}notes.txt", b"?")
    storage.put(f"{keys.commits(job)}000001.jsonl.bak", b"?")

    assert list(records.committed_names(storage, job)) == [(0, None)]
    assert records.committed(storage, job) == CommittedTotals(ShardSet.of([0]), succeeded=1)


@given(statuses=st.lists(st.sampled_from(["succeeded", "failed"]), max_size=20))
def test_every_row_is_counted_once(statuses: list[str]) -> None:
    header, record = records.commit_record(
        ShardId(JobId("tenant", "job"), 0), [row(n, status) for n, status in enumerate(statuses)], 0.0, "w"
    )
    assert header.succeeded == statuses.count("succeeded")
    assert header.failed == statuses.count("failed")
    assert record.count(b"\n") == len(statuses) + 1
