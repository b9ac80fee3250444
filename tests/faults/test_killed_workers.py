"""Explain workers that die, freeze, or are asked to stop, in the middle of a job."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from celery import Celery

from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.keys import CommitName
from tests.faults.history import History
from tests.faults.photos import HANGING
from tests.faults.service import Service, batch
from tests.faults.stack import wait_until
from tests.faults.zombies import FrozenWriter


@pytest.mark.parametrize("part", ["parent", "child", "whole group"])
def test_a_worker_is_killed(service: Service, part: str) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)
    service.wait_for_claims(job, 2)
    pids = {"parent": service.stack.processes["explain-1"].pid, "child": service.stack.child("explain-1")}

    for pid in [pids[part]] if part in pids else service.stack.group("explain-1"):
        assert pid
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    # A device belongs to one process: what is left of a worker must not keep it.
    wait_until(lambda: has_ended(pids["child"]), 30, "no child outlives its worker")

    history = service.healed(f"worker killed -9, {part}", job, killed)
    history.check(batch(), service.reference(batch()))
    assert service.most_attempts(job) <= 3


def test_a_worker_is_killed_between_taking_a_message_and_recording_it(service: Service) -> None:
    # kombu pops a message from its list, and only then notes it as taken: this worker dies in between.
    service.stack.kill("explain-1", "explain-2")
    service.stack.start_explain(3, "tests.faults.doomed")
    job = service.submit(batch()[:1])

    wait_until(service.stack.processes["explain-3"].has_ended, 60, "the doomed worker has taken the message")
    lost = time.monotonic()
    assert service.queued() == 0
    taken = service.state.client.hvals("unacked")
    assert not any(job.job in str(message) for message in taken), "nothing in Redis knows of the message"

    service.stack.supervise()
    history = service.healed("worker killed -9 between taking a message and recording it", job, lost)
    history.check(batch()[:1], service.reference(batch()))


def test_a_worker_is_frozen_past_its_claim_and_thawed(service: Service) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)
    service.wait_for_claims(job, 2)

    service.stack.signal("explain-1", signal.SIGSTOP)
    frozen = time.monotonic()
    history = service.healed("worker frozen, until another has done its shard", job, frozen)
    before = records_of(history)
    service.stack.signal("explain-1", signal.SIGCONT)

    # The zombie is through with its shard when it takes another one.
    service.warm_up()
    assert records_of(history) == before
    history.check(batch(), service.reference(batch()))


def test_a_zombie_writes_its_commit_record_late(service: Service) -> None:
    zombie = FrozenWriter()
    service.proxy.behaviour = zombie.behave
    job = service.submit(batch())
    wait_until(lambda: zombie.group, 30, "a worker writes a commit record")
    frozen = time.monotonic()
    history = service.healed("worker frozen in the write of its commit record", job, frozen)
    before = records_of(history)

    zombie.thaw()
    wait_until(lambda: zombie.answers, 30, "the zombie's write is answered")

    assert zombie.answers == [b"412"]
    service.warm_up()
    assert records_of(history) == before
    history.check(batch(), service.reference(batch()))


def test_a_worker_is_asked_to_stop_in_the_middle_of_a_shard(service: Service) -> None:
    job = service.submit(batch())
    service.wait_for_commits(job)
    service.wait_for_claims(job, 2)

    stopping = service.stack.processes["explain-1"]
    stopping.ask_to_stop()
    asked = time.monotonic()
    wait_until(stopping.has_ended, 30, "the worker has stopped")
    service.recoveries["worker asked to stop: until it has finished its part and ended"] = time.monotonic() - asked

    assert stopping.end(0) == 0
    service.wait(job).check(batch(), service.reference(batch()))
    assert service.most_attempts(job) == 1
    written = Counter(path for method, path in service.proxy.seen if method == "PUT" and "/heatmaps/" in path)
    assert len(written) == len(batch())
    assert set(written.values()) == {1}, "nothing is done twice"


def test_a_worker_that_takes_nothing_ends_to_be_started_again(service: Service) -> None:
    service.stack.kill("explain-1", "explain-2")
    service.stack.start_explain(3, consumer_patience_seconds="3")
    try:
        service.wait(service.submit(batch()[:1]))
        # Alive, answering pings, and consuming nothing: what failed reconnects have made of Celery workers.
        Celery("heatmill", broker=service.stack.redis_url, set_as_current=False).control.cancel_consumer("explain")
        wait_until(lambda: not service.consumers(), 30, "nobody takes messages")
        job = service.submit(batch()[:4])
        submitted = time.monotonic()
        child = service.stack.child("explain-3")

        wait_until(service.stack.processes["explain-3"].has_ended, 30, "the worker has ended")
        service.recoveries["worker that takes nothing, patience 3 s: until it ends"] = time.monotonic() - submitted
        wait_until(lambda: has_ended(child), 10, "its child has ended with it")
        assert service.stack.processes["explain-3"].end(0) == 1
    finally:
        service.stack.kill("explain-3")
    service.stack.supervise()
    service.wait(job).check(batch()[:4], service.reference(batch()))


def test_a_worker_is_killed_while_an_image_hangs_in_its_child(service: Service) -> None:
    service.stack.kill("explain-1", "explain-2")
    service.stack.start_explain(3)
    try:
        service.wait(service.submit(batch()[:1]))
        job = service.submit([HANGING])
        service.wait_for_claims(job)
        child = service.stack.child("explain-3")
        os.kill(service.stack.processes["explain-3"].pid, signal.SIGKILL)
        wait_until(lambda: has_ended(child), 30, "the child does not keep the device for ever")
        service.cancel(job)
        service.wait(job)
    finally:
        service.stack.kill("explain-3")


def has_ended(pid: int | None) -> bool:
    """Whether a process is gone, or a zombie that nobody has asked after."""
    assert pid
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def records_of(history: History) -> dict[CommitName, bytes]:
    """The commit records, byte for byte."""
    names = records.committed_names(history.storage, history.job)
    return {name: history.storage.get(keys.commit(history.job, *name)) for name in names}
