"""The API dies before it has answered; the control worker is away."""

import time
from http import HTTPStatus

import httpx
import pytest

from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from tests.faults.s3_proxy import Forward, Request
from tests.faults.service import Service, batch
from tests.faults.stack import wait_until


@pytest.mark.parametrize("items", [4, 24], ids=["one shard", "six shards"])
def test_the_api_is_killed_between_writing_the_job_and_answering(service: Service, items: int) -> None:
    photos = batch()[:items]
    service.upload(photos)
    jobs_before = len(requests(service))

    async def kill_after_writing(request: Request, forward: Forward) -> bytes:
        answer = await forward()
        if request.method == "PUT" and "/job.json" in request.path:
            service.stack.kill("api")
        return answer

    service.proxy.behaviour = kill_after_writing
    with pytest.raises(httpx.TransportError):
        service.post(photos, idempotency_key=f"once-{items}")
    service.proxy.heal()
    killed = time.monotonic()
    service.stack.supervise()
    again = service.post(photos, idempotency_key=f"once-{items}")

    assert again.status_code == HTTPStatus.ACCEPTED
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(requests(service)) == jobs_before + 1
    history = service.healed(f"API killed before it answered, job of {items} items", job_of(again), killed)
    history.check(photos, service.reference(batch()))
    assert service.post(photos, idempotency_key=f"once-{items}").json()["id"] == history.job.job


def test_the_control_worker_and_its_timer_are_absent_for_a_while(service: Service) -> None:
    begun = service.submit(batch())
    service.wait_for_commits(begun)
    service.stack.kill("control")
    small = service.submit(batch()[:4])
    large = service.submit(batch())
    wait_until(
        lambda: records.load_header(service.storage, small, 0, 0), 30, "a job of one shard needs no control worker"
    )
    time.sleep(3)
    assert not service.storage.exists(keys.plan(large))
    assert not service.storage.exists(keys.final(small))

    service.stack.start_control()
    back = time.monotonic()

    for job, photos in ((begun, batch()), (small, batch()[:4]), (large, batch())):
        service.healed("control worker away, from its start", job, back).check(photos, service.reference(batch()))


def requests(service: Service) -> list[str]:
    """Every job that was ever accepted."""
    return [entry.key for entry in service.storage.list("a/jobs/") if entry.key.endswith("/job.json")]


def job_of(answer: httpx.Response) -> JobId:
    """Of an acceptance."""
    return JobId("a", answer.json()["id"])
