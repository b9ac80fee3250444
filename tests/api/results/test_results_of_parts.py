"""Results of shards that are committed part by part, while the job runs and after, and beside whole shards' records."""

import json
from itertools import combinations

import pytest
from flask.testing import FlaskClient

from heatmill.coordination.job_store import RedisJobStore
from heatmill.jobs import records
from heatmill.jobs.parts import parts_of
from heatmill.schemas import Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_api.http.responses import page_token
from tests.api.requests import answered, commit, finish, row, submit
from tests.api.results.test_views import indices, page, walked

ITEMS = 5
# Two rows of each item.
ROWS = [row(index, method=method) for index in range(2 * ITEMS) for method in ("saliency", "grad_cam")]
EVERY = [each.index for each in ROWS]


def rows_of(shard: int, part: int) -> list[Row]:
    """A shard has five items, so each is a part."""
    first = 2 * (ITEMS * shard + part)
    return ROWS[first : first + 2]


def commit_part(storage: S3Storage, job: JobId, shard: int, part: int) -> None:
    commit(storage, job, shard, *rows_of(shard, part), part=parts_of(ITEMS)[part])


def commit_whole(storage: S3Storage, job: JobId, shard: int) -> None:
    commit(storage, job, shard, *ROWS[2 * ITEMS * shard : 2 * ITEMS * (shard + 1)])


@pytest.fixture
def job(client: FlaskClient) -> JobId:
    return submit(client, items=2 * ITEMS)


def test_a_running_job_shows_parts_up_to_the_first_that_is_missing(
    client: FlaskClient, storage: S3Storage, job: JobId
) -> None:
    for shard, part in [(0, 0), (0, 1), (0, 3), (1, 0)]:
        commit_part(storage, job, shard, part)
    first = page(client, job)
    assert (indices(first), first["complete"]) == ([0, 0, 1, 1], False)
    commit_part(storage, job, 0, 2)
    second = page(client, job, page_token=first["next_page_token"])
    assert indices(second) == [2, 2, 3, 3]
    assert indices(page(client, job, page_token=second["next_page_token"])) == []
    commit_part(storage, job, 0, 4)
    third = page(client, job, page_token=second["next_page_token"])
    assert (indices(third), third["complete"]) == ([4, 4, 5, 5], False)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 11, 100])
def test_pages_of_any_size_hold_every_row_once_whoever_committed_it(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore, job: JobId, size: int
) -> None:
    commit_whole(storage, job, 0)
    for part in range(ITEMS):
        commit_part(storage, job, 1, part)
    assert indices(page(client, job, page_size=size)) == EVERY[:size]
    finish(storage, state, job)
    assert walked(client, job, page_size=size) == EVERY


@pytest.mark.parametrize("offset", range(2 * ITEMS + 1))
def test_the_token_of_an_earlier_version_goes_on_at_the_row_that_it_named(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore, job: JobId, offset: int
) -> None:
    commit_whole(storage, job, 0)
    for part in range(ITEMS):
        commit_part(storage, job, 1, part)
    finish(storage, state, job)

    for shard in range(2):
        rest = EVERY[2 * ITEMS * shard + offset :]
        assert walked_from(client, job, page_token(f"{shard}.{offset}")) == rest


def test_a_whole_shards_record_that_comes_while_its_parts_are_read_repeats_and_skips_nothing(
    client: FlaskClient, storage: S3Storage, job: JobId
) -> None:
    commit_part(storage, job, 0, 0)
    commit_part(storage, job, 0, 1)
    first = page(client, job, page_size=3)
    commit_whole(storage, job, 0)
    assert indices(first) + indices(page(client, job, page_token=first["next_page_token"])) == EVERY[: 2 * ITEMS]


@pytest.mark.parametrize("missing", [set(found) for n in (1, 2) for found in combinations(range(ITEMS), n)])
def test_parts_that_a_cancelled_job_lacks_are_skipped(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore, job: JobId, missing: set[int]
) -> None:
    for part in set(range(ITEMS)) - missing:
        commit_part(storage, job, 0, part)
    commit_part(storage, job, 1, 4)
    finish(storage, state, job, "cancelled")
    there = [index for index in range(ITEMS) for _ in range(2) if index not in missing] + [9, 9]
    assert walked(client, job, page_size=3) == there
    answer = client.get(f"/v1/jobs/{job.job}/results", headers={"Accept": "application/jsonl"})
    assert [json.loads(line)["index"] for line in answer.data.splitlines()] == there


def test_a_page_reads_the_parts_that_it_shows_and_little_of_those_before(
    client: FlaskClient, storage: S3Storage, job: JobId, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(ITEMS):
        commit_part(storage, job, 0, part)
    token = page(client, job, page_size=7)["next_page_token"]
    read = []
    really_get = S3Storage.get

    def get(self: S3Storage, key: str, max_bytes: int | None = None) -> bytes:
        read.append((keys.commit_name(job, key), max_bytes)) if "/results/" in key else None
        return really_get(self, key, max_bytes)

    monkeypatch.setattr(S3Storage, "get", get)
    assert indices(page(client, job, page_size=2, page_token=token)) == [3, 4]
    heads, whole = [(0, part) for part in range(4)], [(0, 3), (0, 4)]
    assert read == [(name, records.HEADER_BYTES) for name in heads] + [(name, None) for name in whole]


def walked_from(client: FlaskClient, job: JobId, token: str) -> list[int]:
    """The rows from a token on."""
    path = f"/v1/jobs/{job.job}/results"
    return indices(answered(client.get(path, query_string={"page_token": token, "page_size": 1000})))
