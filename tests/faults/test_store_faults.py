"""The object store is away, refuses, resets, forgets to answer or crawls in the middle of a job."""

import time
from collections.abc import Callable
from http import HTTPStatus

import pytest

from heatmill.jobs import records
from heatmill.storage.keys import JobId
from tests.faults import s3_proxy
from tests.faults.s3_proxy import Behaviour
from tests.faults.service import Service, batch
from tests.faults.stack import wait_until

DOWN_SECONDS = 60.0
# Longer than the retries inside one request take, so that shards are put back.
REFUSING_SECONDS = 12.0
FAULTS: dict[str, Behaviour] = {
    "503 SlowDown": s3_proxy.slow_down,
    "reset connections": s3_proxy.reset,
}


@pytest.mark.verify
def test_s3_is_down_for_a_minute(service: Service) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)

    service.proxy.down()
    time.sleep(DOWN_SECONDS)
    done = len(records.committed(service.storage, job).shards)
    refused = service.post(batch())
    service.proxy.up()
    up = time.monotonic()

    assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE, "what cannot be made durable is not accepted"
    history = service.healed("S3 down for a minute", job, up)
    assert done < len(history.rows()) / 4, "there was work left to do"
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1, "a fault of the infrastructure is not counted"


@pytest.mark.parametrize("fault", FAULTS)
def test_s3_gives(service: Service, fault: str) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)

    service.proxy.behaviour = FAULTS[fault]
    time.sleep(REFUSING_SECONDS)
    service.proxy.heal()
    over = time.monotonic()

    service.healed(f"S3 {fault}", job, over).check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1


TAKES_NOTHING = {
    "full": ("507 Insufficient Storage", "XMinioStorageFull"),
    "closed": ("403 Forbidden", "AccessDenied"),
    "failing": ("500 Internal Server Error", "InternalError"),
}


@pytest.mark.parametrize(
    "fault", ["full", *(pytest.param(name, marks=pytest.mark.verify) for name in ("closed", "failing"))]
)
def test_s3_takes_nothing_more(service: Service, fault: str) -> None:
    job, other = service.submit(batch()), service.submit(batch())
    service.wait_for_commits(job)

    service.proxy.behaviour = s3_proxy.refusing_writes(*TAKES_NOTHING[fault])
    wait_until(lambda: condition(service, job) == "waiting_for_storage", 60, "the job says why it stands still")
    refused, ready = service.post(batch()), service.ask("/readyz")
    cancelled = service.ask(f"/v1/jobs/{other.job}:cancel", "POST")
    read = service.images_read()
    time.sleep(REFUSING_SECONDS)
    read_again = service.images_read()
    service.proxy.heal()
    over = time.monotonic()

    assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert (ready.status_code, ready.json()["storage"]["status"]) == (HTTPStatus.OK, "read_only")
    assert cancelled.status_code == HTTPStatus.ACCEPTED
    assert read_again == read, "nothing is explained that cannot be stored"
    service.healed(f"S3 {fault}", job, over).check(batch(), service.reference(batch()))
    wait_until(
        lambda: service.ask(f"/v1/jobs/{other.job}").json()["state"] == "cancelled", 20, "the other is cancelled"
    )
    assert service.most_attempts(job) == 1


def test_a_job_can_be_deleted_though_the_store_is_full(service: Service) -> None:
    job = service.submit(batch()[:4])
    service.wait(job)

    service.proxy.behaviour = s3_proxy.full_until_something_goes("results.parquet")

    assert service.ask(f"/v1/jobs/{job.job}", "DELETE").status_code == HTTPStatus.NO_CONTENT
    wait_until(lambda: len(list(service.storage.list(job.prefix))) == 1, 20, "its objects are gone")


def condition(service: Service, job: JobId) -> str | None:
    told = service.ask(f"/v1/jobs/{job.job}").json()["condition"]
    return told and str(told["type"])


def test_s3_is_slow(service: Service) -> None:
    service.proxy.behaviour = s3_proxy.slow
    started = time.monotonic()
    job = service.submit(batch())

    history = service.healed("S3 slow (0.1 s a request), from submission", job, started)
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1


# Longer than the client waits for an answer.
SILENT_SECONDS = 40.0
UNANSWERED: dict[str, Callable[[], Behaviour]] = {
    "no answer to a commit record": lambda: s3_proxy.silent("/results/", SILENT_SECONDS),
    "a reset instead of each answer": s3_proxy.answers_lost,
}


@pytest.mark.parametrize("fault", UNANSWERED)
def test_s3_times_out_after_the_write_went_through(service: Service, fault: str) -> None:
    service.proxy.behaviour = UNANSWERED[fault]()
    started = time.monotonic()
    job = service.submit(batch())

    history = service.healed(f"S3 {fault} after the write went through, from submission", job, started)
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1
