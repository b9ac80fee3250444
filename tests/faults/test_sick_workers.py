"""Workers whose machine cannot do the work: they give it back, say why and end, and no image fails for it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from heatmill.coordination.conditions import UNFIT_WORKERS, read_condition, unfit_workers
from heatmill.coordination.job_store import key
from heatmill.coordination.live_workers import live_workers
from heatmill.coordination.schedule import WORKERS
from heatmill.storage import keys
from tests.faults.photos import BUGGY
from tests.faults.service import EXPLAIN, Service, batch
from tests.faults.stack import MODELS, wait_until

SICK = "explain-3"
OLDER = MODELS.replace('name = "obedient"', 'name = "another"')
LOST_DEVICE = MODELS.replace("classifier:build", "sick_models:with_a_lost_device")
SICKNESSES = {
    "no driver for its device": ({"device": "cuda"}, None),
    "no memory for the model": ({}, MODELS.replace("classifier:build", "sick_models:without_memory")),
    "a full disk": ({}, MODELS.replace("classifier:build", "sick_models:without_room")),
    "a models.toml without the model": ({}, OLDER),
    "no weights": ({}, MODELS + 'weights = "/nowhere/weights.safetensors"\n'),
    "no such models.toml": ({"models_file": "/nowhere/models.toml"}, None),
    "no such methods file": ({"methods_file": "/nowhere/methods.json"}, None),
}


@pytest.fixture
def frozen(service: Service) -> Iterator[Service]:
    """The stack, whose two explain workers are frozen and do not count as alive; both go on afterwards."""
    for name in EXPLAIN:
        service.stack.signal(name, signal.SIGSTOP)
    service.state.client.delete(WORKERS)
    yield service
    service.stack.kill(SICK)
    noted = [name for kind in ("lack", "ends") for name in service.state.client.scan_iter(f"heatmill:{kind}:*")]
    service.state.client.delete(UNFIT_WORKERS, *noted)
    for name in EXPLAIN:
        service.stack.signal(name, signal.SIGCONT)


def start_sick(service: Service, folder: Path, settings: dict[str, str], toml: str | None) -> None:
    if toml is not None:
        (folder / "sick.toml").write_text(toml)
        settings = {**settings, "models_file": str(folder / "sick.toml")}
    service.stack.start_explain(3, **settings)


def log_of(service: Service) -> str:
    return (service.stack.folder / f"{SICK}.log").read_text("utf-8", "replace")


def ended(service: Service) -> str:
    """The line in which the sick worker said why it ended, with status 1."""
    sick = service.stack.processes[SICK]
    begin = len(log_of(service))
    wait_until(sick.has_ended, 60, "the sick worker has ended")
    assert sick.end(0) == 1
    lines = log_of(service)[begin:].splitlines()
    (line,) = (line for line in lines if "can do no work" in line or "cannot start" in line)
    return line


def test_a_worker_whose_device_is_lost_gives_the_work_back_says_why_and_ends(frozen: Service, tmp_path: Path) -> None:
    job = frozen.submit(batch())
    start_sick(frozen, tmp_path, {}, LOST_DEVICE)

    assert "illegal memory access" in ended(frozen)
    assert not list(frozen.storage.list(keys.commits(job)))
    # It is the only one, so that the job waits, and says for what.
    assert not live_workers(frozen.state)
    assert "illegal memory access" in "".join(unfit_workers(frozen.state).values())
    frozen.state.client.hset(key(job, "condition"), "since", "1")
    condition = read_condition(frozen.state, job)
    assert condition is not None
    assert "illegal memory access" in condition.detail

    # Beside a good one nothing has failed, and no attempt counts.
    frozen.stack.signal("explain-1", signal.SIGCONT)
    frozen.wait(job).check(batch(), frozen.reference(batch()))
    assert frozen.most_attempts(job) <= 1
    assert read_condition(frozen.state, job) is None


def test_an_image_on_which_the_only_worker_s_model_has_a_bug_fails_alone_in_a_second_process(frozen: Service) -> None:
    frozen.stack.signal("explain-1", signal.SIGCONT)
    child = frozen.stack.child("explain-1")
    photos = [*batch()[:3], BUGGY]
    history = frozen.wait(frozen.submit(photos))

    history.check(photos, frozen.reference(batch()), {BUGGY.id: "internal_error"})
    assert frozen.stack.child("explain-1") != child


@pytest.mark.verify
def test_an_image_on_which_the_model_has_a_bug_fails_once_another_worker_agrees(service: Service) -> None:
    service.warm_up()
    wait_until(lambda: len(live_workers(service.state)) == len(EXPLAIN), 30, "both say that they live")
    children = [service.stack.child(name) for name in EXPLAIN]
    photos = [*batch()[:3], BUGGY]

    service.wait(service.submit(photos)).check(photos, service.reference(batch()), {BUGGY.id: "internal_error"})
    assert [service.stack.child(name) for name in EXPLAIN] == children


@pytest.mark.verify
@pytest.mark.parametrize("sickness", SICKNESSES)
def test_a_sick_worker_fails_nothing_and_ends_with_one_line(frozen: Service, tmp_path: Path, sickness: str) -> None:
    job = frozen.submit(batch())
    start_sick(frozen, tmp_path, *SICKNESSES[sickness])

    assert "Traceback" not in ended(frozen)
    assert not list(frozen.storage.list(keys.commits(job)))
    frozen.stack.signal("explain-1", signal.SIGCONT)
    frozen.wait(job).check(batch(), frozen.reference(batch()))


@pytest.mark.verify
def test_a_worker_that_was_sick_rests_when_it_is_started_again(frozen: Service, tmp_path: Path) -> None:
    job = frozen.submit(batch()[:8])
    start_sick(frozen, tmp_path, {}, LOST_DEVICE)
    ended(frozen)

    # As whoever keeps it up would do.
    start_sick(frozen, tmp_path, {}, MODELS)
    wait_until(lambda: "the worker rests" in log_of(frozen), 60, "it rests")
    frozen.wait(job).check(batch()[:8], frozen.reference(batch()))
    assert not unfit_workers(frozen.state)


@pytest.mark.verify
def test_a_worker_without_the_model_ends_once_and_then_goes_on_with_other_work(frozen: Service, tmp_path: Path) -> None:
    job = frozen.submit(batch()[:8])
    start_sick(frozen, tmp_path, {}, OLDER)
    ended(frozen)
    start_sick(frozen, tmp_path, {}, OLDER)
    wait_until(lambda: "left to other workers" in log_of(frozen), 60, "it gives the work back, and lives")
    assert not frozen.stack.processes[SICK].has_ended()

    frozen.stack.signal("explain-1", signal.SIGCONT)
    frozen.wait(job).check(batch()[:8], frozen.reference(batch()))


@pytest.mark.verify
def test_a_worker_with_a_broken_library_beside_a_good_one_fails_nothing(service: Service, tmp_path: Path) -> None:
    start_sick(service, tmp_path, {}, MODELS.replace("classifier:build", "sick_models:with_a_broken_library"))
    wait_until(lambda: len(live_workers(service.state)) == 3, 60, "all live")
    try:
        service.wait(service.submit(batch())).check(batch(), service.reference(batch()))
    finally:
        service.stack.kill(SICK)
