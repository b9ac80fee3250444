"""The object store is away, refuses, resets, forgets to answer or crawls in the middle of a job."""

import time
from http import HTTPStatus

import pytest

from heatmill import records
from tests.faults import s3_proxy
from tests.faults.s3_proxy import Behaviour
from tests.faults.service import Service, batch

# Longer than the retries inside one request take, so that shards are put back; a minute is no other case.
AWAY_SECONDS = 12.0
FAULTS: dict[str, Behaviour] = {
    "503 SlowDown": s3_proxy.slow_down,
    "reset connections": s3_proxy.reset,
}


def test_the_store_is_down(service: Service) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)

    service.proxy.down()
    time.sleep(AWAY_SECONDS)
    done = len(list(records.committed_numbers(service.storage, job)))
    refused = service.post(batch())
    service.proxy.up()
    up = time.monotonic()

    assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE, "what cannot be made durable is not accepted"
    history = service.healed("S3 down", job, up)
    assert done < len(history.rows()) / 4, "there was work left to do"
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1, "a fault of the infrastructure is not counted"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_store_answers_with(service: Service, fault: str) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)

    service.proxy.behaviour = FAULTS[fault]
    time.sleep(AWAY_SECONDS)
    service.proxy.heal()
    over = time.monotonic()

    service.healed(f"S3 {fault}", job, over).check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1


def test_the_store_is_slow(service: Service) -> None:
    service.proxy.behaviour = s3_proxy.slow
    started = time.monotonic()
    job = service.submit(batch())

    history = service.healed("S3 slow (0.1 s a request), from submission", job, started)
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1


def test_writes_go_through_and_their_answers_are_lost(service: Service) -> None:
    service.proxy.behaviour = s3_proxy.answers_lost()
    started = time.monotonic()
    job = service.submit(batch())

    history = service.healed("S3 timeout after each write went through, from submission", job, started)
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1
