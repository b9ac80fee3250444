"""Reading results, while the job runs and after."""

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from flask.testing import FlaskClient

from heatmill.coordination.job_store import RedisJobStore
from heatmill.errors import StorageUnavailable
from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.schemas import CommitHeader, Problem, Row, StoredArray
from heatmill.schemas.byte_range import byte_range
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import CommitName, JobId, ShardId
from tests.api.requests import answered, commit, finish, picture, row, submit


def page(client: FlaskClient, job: JobId, **query: Any) -> dict[str, Any]:
    return answered(client.get(f"/v1/jobs/{job.job}/results", query_string=query))


def indices(found: dict[str, Any]) -> list[int]:
    return [result["index"] for result in found["results"]]


def walked(client: FlaskClient, job: JobId, **query: Any) -> list[int]:
    """The rows of all pages of a terminal job."""
    found: list[int] = []
    token = ""
    while True:
        one = page(client, job, page_token=token, **query)
        assert one["complete"] == (one["next_page_token"] == "")
        found += indices(one)
        if one["complete"]:
            return found
        token = one["next_page_token"]


def test_a_job_without_results_has_an_empty_page_that_is_not_the_end(client: FlaskClient) -> None:
    found = page(client, submit(client))
    assert (found["results"], found["complete"]) == ([], False)
    assert found["next_page_token"]


def test_a_running_job_shows_no_row_before_those_that_may_still_come(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=6)
    commit(storage, job, 1, row(2), row(3))
    first = page(client, job)
    assert indices(first) == []
    commit(storage, job, 0, row(0), row(1))
    second = page(client, job, page_token=first["next_page_token"])
    assert (indices(second), second["complete"]) == ([0, 1, 2, 3], False)
    again = page(client, job, page_token=second["next_page_token"])
    assert (indices(again), again["next_page_token"]) == ([], second["next_page_token"])
    commit(storage, job, 2, row(4), row(5))
    assert indices(page(client, job, page_token=again["next_page_token"])) == [4, 5]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 100])
def test_pages_of_any_size_hold_every_row_once(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore, size: int
) -> None:
    job = submit(client, items=5)
    commit(storage, job, 0, row(0), row(1), row(2))
    commit(storage, job, 1, row(3), row(4))
    assert indices(page(client, job, page_size=size)) == list(range(5))[:size]
    finish(storage, state, job)
    assert walked(client, job, page_size=size) == [0, 1, 2, 3, 4]


def test_the_shards_that_a_cancelled_job_lacks_are_skipped(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job = submit(client, items=5)
    commit(storage, job, 1, row(1))
    commit(storage, job, 3, row(3))
    finish(storage, state, job, "cancelled")
    assert walked(client, job, page_size=1) == [1, 3]


def test_a_filter_that_fits_few_rows_gives_short_pages(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job = submit(client, items=70)
    for number in range(70):
        commit(storage, job, number, row(number, verdict="imprecise" if number in {2, 69} else "ok"))
    first = page(client, job, verdict="imprecise")
    assert (indices(first), first["complete"]) == ([2], False)
    finish(storage, state, job)
    assert walked(client, job, verdict="imprecise") == [2, 69]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status": "failed"}, [1]),
        ({"status": "succeeded"}, [0, 2]),
        ({"method": "grad_cam"}, [2]),
        ({"method": "nothing"}, []),
        ({"verdict": "ok"}, [0]),
    ],
)
def test_rows_are_filtered(client: FlaskClient, storage: S3Storage, query: dict[str, str], found: list[int]) -> None:
    job = submit(client, items=3)
    problem = Problem(type="x", title="x", detail="gone")
    rows = (row(0, verdict="ok"), row(1, status="failed", target=None, error=problem), row(2, method="grad_cam"))
    commit(storage, job, 0, *rows)
    assert indices(page(client, job, **query)) == found


def test_a_row_comes_with_urls_that_work(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client)
    heatmap = picture(storage, job, 0, "0000.saliency.1")
    commit(storage, job, 0, row(0, heatmap=heatmap))
    (result,) = page(client, job)["results"]
    with httpx.Client(trust_env=False) as http:
        assert http.get(result["heatmap"]["url"]).content == storage.get(heatmap.key)


def test_all_rows_are_streamed_as_lines(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=3)
    commit(storage, job, 0, row(0), row(1, status="failed"))
    commit(storage, job, 1, row(2))
    answer = client.get(f"/v1/jobs/{job.job}/results?status=succeeded", headers={"Accept": "application/jsonl"})
    assert answer.content_type == "application/jsonl"
    assert [json.loads(line)["index"] for line in answer.data.splitlines()] == [0, 2]
    token = page(client, job, page_size=2)["next_page_token"]
    rest = client.get(f"/v1/jobs/{job.job}/results?page_token={token}", headers={"Accept": "application/jsonl"})
    assert [json.loads(line)["index"] for line in rest.data.splitlines()] == [2]


def test_a_stream_of_many_rows_begins_at_once_and_holds_one_shard(
    client: FlaskClient, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, file = submit(client, items=2), StoredArray(key="k" * 80, shape=(1,), factor=1.0)
    shard, shards, read = [row(index, attribution=file) for index in range(500)], 200, []

    def load_commit(_: S3Storage, job: JobId, number: int, __: None) -> tuple[CommitHeader, Iterator[Row]]:
        read.append(number)
        header, _record = records.commit_record(ShardId(job, number), shard, 1.0, "test")
        return header, iter([one.model_copy(update={"index": number * 500 + one.index}) for one in shard])

    monkeypatch.setattr(records, "load_commit", load_commit)
    monkeypatch.setattr(records, "committed_names", lambda *_: map(CommitName, range(shards)))
    answer = client.get(f"/v1/jobs/{job.job}/results", headers={"Accept": "application/jsonl"}, buffered=False)
    lines = cast("Iterator[bytes]", iter(answer.response))
    tracemalloc.start()
    first = json.loads(next(lines))
    read_by_then = list(read)
    count = 1 + sum(1 for _ in lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (first["index"], read_by_then) == (0, [0])
    assert "X-Amz-Signature" in first["attribution"]["url"]
    assert count == shards * len(shard) == 100_000
    # All lines together are 60 MB.
    assert peak < 8_000_000


def test_a_file_in_a_tar_is_one_ranged_read_away(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=1)
    alone = picture(storage, job, 0, "0000.saliency.1")
    content = storage.get(alone.key)
    tar = keys.shard_tar(job, 0, 0)
    storage.put(tar, b"before" + content + b"after")
    packed = alone.model_copy(update={"key": tar, "range": byte_range(len(b"before"), len(content))})
    commit(storage, job, 0, row(0, heatmap=packed))

    (shown,) = page(client, job)["results"]

    answer = httpx.get(shown["heatmap"]["url"], headers={"Range": shown["heatmap"]["range"]})
    assert (answer.status_code, answer.content) == (206, content)
    drawn = client.get(f"/v1/jobs/{job.job}/results/photo-0/saliency/heatmap.png")
    assert (drawn.status_code, drawn.data) == (200, content)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html,*/*;q=0.1", "application/jsonl;q=0.5,*/*"])
def test_a_page_is_what_is_given_where_lines_are_not_preferred(client: FlaskClient, accept: str) -> None:
    answer = client.get(f"/v1/jobs/{submit(client).job}/results", headers={"Accept": accept})
    assert answer.content_type == "application/json"


@pytest.mark.parametrize("token", ["x", "!", "LTEuMA", "MC4wMA0K", "OTk5OTk5OTkuMA", "\udcff", "A" * 101])
def test_a_token_that_was_not_given_out_is_refused(client: FlaskClient, token: str) -> None:
    path = f"/v1/jobs/{submit(client).job}/results"
    answer = client.get(path, query_string={"page_token": token.encode("utf-8", "surrogateescape")})
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["errors"][0]["parameter"] == "page_token"


@pytest.mark.parametrize("query", ["page_size=0", "page_size=x", "status=done", "verdict=bad"])
def test_a_parameter_out_of_bounds_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/v1/jobs/{submit(client).job}/results?{query}").status_code == 422


def test_a_page_size_above_the_limit_is_the_limit(client: FlaskClient) -> None:
    assert page(client, submit(client), page_size=10**9)["results"] == []


def test_a_job_that_redis_has_forgotten_shows_its_results(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore
) -> None:
    job = submit(client, items=2)
    commit(storage, job, 0, row(0), row(1))
    state.client.flushall()
    assert indices(page(client, job)) == [0, 1]
    assert load_job(storage, state, job).counts.succeeded == 2
    assert storage.exists(keys.plan(job))


def test_a_store_that_is_away_is_a_503_for_a_stream_too(
    client: FlaskClient, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(client)

    def away(*_: object) -> Iterator[int]:
        yield from ()
        raise StorageUnavailable("the object store does not answer")

    monkeypatch.setattr(records, "committed_names", away)
    answer = client.get(f"/v1/jobs/{job.job}/results", headers={"Accept": "application/jsonl"})

    assert answer.status_code == 503
    assert answer.content_type == "application/problem+json"
