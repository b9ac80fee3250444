"""Listing jobs."""

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.task_queue import Dispatcher, celery_app
from heatmill.jobs.registration import register
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from tests.api.requests import answered, finish, submit

NOBODY = "redis://127.0.0.1:9/0"


def listed(client: FlaskClient, **query: Any) -> dict[str, Any]:
    return answered(client.get("/v1/jobs", query_string=query))


def names(page: dict[str, Any]) -> list[str]:
    return [job["id"] for job in page["jobs"]]


@pytest.fixture
def jobs(client: FlaskClient, storage: S3Storage) -> list[JobId]:
    """Five jobs, newest first, and no others."""
    storage.delete([entry.key for entry in storage.list("default/")])
    return [submit(client, metadata={"number": str(number)}) for number in range(5)][::-1]


def test_jobs_are_listed_newest_first_as_they_are_read_alone(client: FlaskClient, jobs: list[JobId]) -> None:
    page = listed(client)
    assert names(page) == [job.job for job in jobs]
    assert page["next_page_token"] == ""
    assert page["jobs"][0] == client.get(f"/v1/jobs/{jobs[0].job}").json


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_pages_of_any_size_hold_every_job_once(client: FlaskClient, jobs: list[JobId], size: int) -> None:
    found, token = [], ""
    while True:
        page = listed(client, page_size=size, page_token=token)
        found += names(page)
        token = page["next_page_token"]
        if not token:
            break
    assert found == [job.job for job in jobs]


def test_a_page_of_long_jobs_is_short(client: FlaskClient, jobs: list[JobId], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatmill_api.jobs.list_view.MAX_PAGE_BYTES", 1)
    pages, token = [], None
    while token != "":
        page = listed(client, page_token=token or "")
        pages.append(names(page))
        token = page["next_page_token"]
    assert [len(page) for page in pages] == [1] * 5
    assert [name for page in pages for name in page] == [job.job for job in jobs]


def test_a_job_submitted_meanwhile_moves_no_page(client: FlaskClient, jobs: list[JobId]) -> None:
    first = listed(client, page_size=2)
    submit(client)
    second = listed(client, page_size=2, page_token=first["next_page_token"])
    assert names(first) + names(second) == [job.job for job in jobs[:4]]


def test_jobs_are_filtered_by_state_and_metadata(
    client: FlaskClient, storage: S3Storage, state: RedisJobStore, jobs: list[JobId]
) -> None:
    finish(storage, state, jobs[2])
    assert names(listed(client, state="succeeded")) == [jobs[2].job]
    assert len(names(listed(client, state="queued"))) == 4
    assert names(listed(client, **{"metadata.number": "4"})) == [jobs[0].job]
    assert names(listed(client, **{"metadata.number": "4", "metadata.other": "x"})) == []
    assert names(listed(client, page_size=1, state="succeeded")) == [jobs[2].job]


def test_a_wiped_redis_forgets_no_job(client: FlaskClient, state: RedisJobStore, jobs: list[JobId]) -> None:
    state.client.flushall()
    newest = submit(client)
    assert names(listed(client)) == [newest.job, *(job.job for job in jobs)]


def test_jobs_are_listed_while_redis_is_down(services: ApiContext, client: FlaskClient, jobs: list[JobId]) -> None:
    lost = Dispatcher(celery_app(Settings(redis_url=NOBODY), "api"))
    away = create_app(replace(services, state=open_state(NOBODY), dispatcher=lost)).test_client()
    first = listed(away, page_size=2)
    rest = listed(away, page_token=first["next_page_token"])
    assert names(first) + names(rest) == [job.job for job in jobs]


def test_a_job_accepted_while_redis_was_down_is_listed_once_it_is_repaired(
    services: ApiContext, client: FlaskClient, jobs: list[JobId], storage: S3Storage, state: RedisJobStore
) -> None:
    listed(client)
    lost = Dispatcher(celery_app(Settings(redis_url=NOBODY), "api"))
    job = submit(create_app(replace(services, state=open_state(NOBODY), dispatcher=lost)).test_client())
    assert job.job not in names(listed(client))
    register(storage, state, job)
    assert names(listed(client))[0] == job.job


@pytest.mark.parametrize(
    "query", ["state=done", "page_size=0", "page_token=x", "page_token=MDA", "number=4", "page_token=" + "A" * 200]
)
def test_a_wrong_parameter_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/v1/jobs?{query}").status_code == 422
