"""Object keys are functions of ids; what one job owns, no other job reaches."""

from datetime import UTC, datetime

import pytest

from heatmill.storage import keys
from heatmill.storage.keys import JobId

JOB = JobId("tenant", "job")


def test_keys_are_what_the_design_says() -> None:
    assert keys.open_marker(JOB) == "open/tenant/job"
    assert keys.request(JOB) == "tenant/jobs/job/job.json"
    assert keys.plan(JOB) == "tenant/jobs/job/plan.json"
    assert keys.shard(JOB, 7) == "tenant/jobs/job/shards/000007.jsonl"
    assert keys.commit(JOB, 7) == "tenant/jobs/job/results/000007.jsonl"
    assert keys.commit(JOB, 7, 3) == "tenant/jobs/job/results/000007.3.jsonl"
    assert keys.table(JOB, 0) == "tenant/jobs/job/results.parquet"
    assert keys.table(JOB, 2) == "tenant/jobs/job/results-002.parquet"
    assert keys.heatmap(JOB, 7, "0001.m.0") == "tenant/jobs/job/heatmaps/000007/0001.m.0.png"
    assert keys.attribution(JOB, 7, "0001.m.0") == "tenant/jobs/job/attributions/000007/0001.m.0.npy"
    assert keys.cancelled(JOB) == "tenant/jobs/job/cancelled"
    assert keys.final(JOB) == "tenant/jobs/job/final.json"
    assert keys.blob("tenant", "0" * 64) == f"tenant/blobs/{'0' * 64}"


def test_a_job_id_can_be_read_back() -> None:
    assert JobId.parse(str(JOB)) == JOB
    assert JobId.parse(keys.open_marker(JOB).removeprefix(keys.OPEN_PREFIX)) == JOB


def test_every_key_that_belongs_to_no_tenant_lies_below_a_reserved_name() -> None:
    of_no_tenant = (
        keys.open_marker(JOB),
        keys.trash_marker(JOB),
        keys.expiry_marker(JOB, datetime(2030, 1, 1, tzinfo=UTC)),
        keys.probe("0"),
        keys.model_facts("a" * 64),
        keys.newest_facts("resnet18"),
    )
    assert {key.partition("/")[0] for key in of_no_tenant} == keys.reserved_names()


@pytest.mark.parametrize("tenant", ["a", "default", "0", "x" * 63, *sorted(keys.reserved_names())])
def test_a_marker_tells_its_job_whatever_the_tenant_is_called(tenant: str) -> None:
    job = JobId(tenant, "0123456789abcdef" * 2)
    when = datetime(2030, 1, 1, tzinfo=UTC)
    assert keys.marked_job(keys.OPEN_PREFIX, keys.open_marker(job)) == job
    assert keys.marked_job(keys.TRASH_PREFIX, keys.trash_marker(job)) == job
    assert keys.marked_job(keys.EXPIRY_PREFIX, keys.expiry_marker(job, when)) == job


@pytest.mark.parametrize("prefix", [keys.OPEN_PREFIX, keys.TRASH_PREFIX, keys.EXPIRY_PREFIX])
def test_nothing_that_a_tenant_owns_looks_like_a_marker(prefix: str) -> None:
    job = JobId(prefix.rstrip("/"), "f" * 32)
    owned = [
        *(keys.request(job), keys.plan(job), keys.shard(job, 0), keys.commit(job, 0), keys.final(job)),
        *(keys.blob(job.tenant, "0" * 64), keys.cached(job.tenant, "0" * 64), keys.cancelled(job)),
        *(keys.heatmap(job, 0, "a"), keys.attribution(job, 0, "a"), keys.shard_tar(job, 0, 0), keys.table(job, 0)),
    ]
    assert [key for key in owned if key.startswith(prefix) and keys.marked_job(prefix, key) is not None] == []


def test_text_that_is_no_job_id_is_an_error() -> None:
    for text in ("job", "a/b/c"):
        with pytest.raises(ValueError, match="unpack"):
            JobId.parse(text)


@pytest.mark.parametrize("part", [None, 0, 7])
@pytest.mark.parametrize("number", [0, 7, 999_999, 1_000_000])
def test_shard_and_part_can_be_read_from_the_key_of_a_commit_record(number: int, part: int | None) -> None:
    key = keys.commit(JOB, number, part)
    assert keys.commit_name(JOB, key) == (number, part)
    assert key.startswith(keys.shard_commits(JOB, number))


@pytest.mark.parametrize(
    "name", ["", "x", "000007", "000007.parquet", "000007.12.jsonl", "7.jsonl", "000007.a.jsonl", "a/000007.jsonl"]
)
def test_what_is_no_commit_record_has_no_such_name(name: str) -> None:
    assert keys.commit_name(JOB, f"{keys.commits(JOB)}{name}") is None


def test_commit_records_are_listed_by_shard_and_part_and_a_whole_shards_after_those_of_its_parts() -> None:
    names = [(number, part) for number in (6, 7) for part in (0, 7, None)]
    listed = [keys.commit(JOB, *name) for name in names]
    assert listed == sorted(listed)
    assert listed[2] < keys.before_commits(JOB, 7) < listed[3]


def test_tables_are_not_among_the_commits() -> None:
    assert not keys.table(JOB, 0).startswith(keys.commits(JOB))
    assert not keys.table(JOB, 1).startswith(keys.commits(JOB))


def test_no_jobs_prefix_is_the_start_of_anothers() -> None:
    ids = [JobId("t", "a"), JobId("t", "ab"), JobId("ta", "b"), JobId("t", "a0")]
    for one in ids:
        assert [other for other in ids if keys.request(other).startswith(one.prefix)] == [one]
