"""Whose fault a failure is: the machine's, or an item's or a model's once a second worker agrees."""

import errno
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from PIL import Image
from structlog.testing import capture_logs
from torch import Tensor

from heatmill.catalogue.catalogue import Catalogue
from heatmill.coordination.job_store import RedisJobStore, key
from heatmill.coordination.live_workers import beat
from heatmill.errors import ItemTooLargeForDevice, ModelRefused, ModelUnavailable
from heatmill.images import decode_reduced
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Method, MethodOutput
from heatmill_workers.methods.registry import register
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard.commit import ShardCommits
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.giving_back import ProcessEnds, WorkerEnds
from heatmill_workers.shard.predict import predict
from heatmill_workers.shard.process import process_shard
from heatmill_workers.shard.result_writer import ResultWriter
from tests.workers.jobs import upload
from tests.workers.photos import noise
from tests.workers.processed import MODEL, planned_fresh, rows_of

METHODS = [{"name": "saliency"}]
FULL = OSError(errno.ENOSPC, "No space left on device")
WRAPPED = ModelUnavailable("model x: m:make cannot be called (OSError)")
WRAPPED.__cause__ = FULL
REFUSED = ModelRefused("the numbers in head.weight cannot be read")
REFUSED.__cause__ = RuntimeError("CUDA error: an illegal memory access was encountered")
MACHINE_FAULTS = {
    "device": RuntimeError("CUDA error: device-side assert triggered"),
    "driver": RuntimeError("Found no NVIDIA driver on your system."),
    "memory": MemoryError(),
    "disk": FULL,
    "wrapped": WRAPPED,
    "taken for a refusal": REFUSED,
    "too large": ItemTooLargeForDevice("proof: one image does not fit the device"),
}


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """Not on the terminal, where a trace shows the values of all variables, and takes seconds."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def white() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    return file.getvalue()


def job_of(worker: WorkerContext, *images: bytes, **request: object) -> JobId:
    items = [{"id": f"image {number}", "image": upload(worker.storage, data)} for number, data in enumerate(images)]
    return planned_fresh(worker, items=items, **{"model": MODEL, "methods": METHODS, **request})


def failing_to_load(worker: WorkerContext, error: Exception, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    """A worker of another process, that loads no model; until the patch is undone."""

    def fail(*_: object) -> LoadedModel:
        raise error

    monkeypatch.setattr("heatmill_workers.models.store.load", fail)
    return replace(worker, models=ModelStore(model.spec for model in worker.catalogue.models))


def committed(worker: WorkerContext, job: JobId) -> list[str]:
    return [entry.key for entry in worker.storage.list(keys.commits(job))]


def failures(worker: WorkerContext, job: JobId) -> dict[str, str]:
    return {row.item: row.error.type.rpartition("/")[2] for row in rows_of(worker, job) if row.error}


@pytest.mark.parametrize("fault", MACHINE_FAULTS)
def test_a_model_that_this_machine_cannot_load_costs_no_attempt_and_ends_the_worker(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    job = job_of(worker, noise(1))

    with monkeypatch.context() as patch:
        sick = failing_to_load(worker, MACHINE_FAULTS[fault], patch)
        assert isinstance(process_shard(sick, job, 0), WorkerEnds)

    assert not committed(worker, job)
    assert worker.state.client.hget(key(job, "attempts"), "0") == "0"
    assert process_shard(worker, job, 0) is None
    assert not failures(worker, job)


def test_a_model_that_this_worker_does_not_know_goes_to_others(worker: WorkerContext) -> None:
    job = job_of(worker, noise(1))

    older = process_shard(replace(worker, catalogue=Catalogue(worker.catalogue.methods, ())), job, 0)

    assert isinstance(older, WorkerEnds)
    assert "same models.toml as the API" in older.reason
    assert process_shard(worker, job, 0) is None
    assert not failures(worker, job)


def test_a_method_whose_package_this_worker_lacks_goes_to_others(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(worker, noise(1))

    with monkeypatch.context() as patch:
        patch.delitem(cast("dict[str, Method]", register()), "saliency")
        older = process_shard(worker, job, 0)

    assert isinstance(older, WorkerEnds)
    assert "no method 'saliency'" in older.reason
    assert process_shard(worker, job, 0) is None
    assert not failures(worker, job)


def test_a_catalogue_without_the_method_only_leaves_the_throughput_unknown(worker: WorkerContext) -> None:
    job = job_of(worker, noise(1))

    assert process_shard(replace(worker, catalogue=Catalogue((), worker.catalogue.models)), job, 0) is None

    assert not failures(worker, job)


def test_a_model_that_is_refused_fails_at_once(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(worker, noise(1))

    assert process_shard(failing_to_load(worker, ModelRefused("it is random"), monkeypatch), job, 0) is None

    assert failures(worker, job) == {"image 0": "model_refused"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(ZeroDivisionError("x"), "internal_error"), (ModelUnavailable("no such architecture"), "model_unavailable")],
)
def test_a_model_that_cannot_be_built_fails_in_a_fresh_process_of_the_only_worker(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    job, later = job_of(worker, noise(1)), job_of(worker, noise(2))
    broken = failing_to_load(replace(worker, place="here"), error, monkeypatch)

    for _ in range(2):
        assert isinstance(process_shard(replace(broken, process="1"), job, 0), ProcessEnds), "no other can confirm it"
    assert not committed(worker, job)
    assert process_shard(replace(broken, process="2"), job, 0) is None
    assert process_shard(replace(broken, process="2"), later, 0) is None, "known of the model now"

    assert failures(worker, job) == failures(worker, later) == {"image 0": code}


def test_a_model_that_only_one_of_two_workers_cannot_build_fails_nothing(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill_workers.shard.giving_back.LACK_PAUSE_SECONDS", 0.0)
    beat(worker.state, "good")
    job = job_of(worker, noise(1))

    with monkeypatch.context() as patch:
        broken = failing_to_load(replace(worker, place="bad"), ZeroDivisionError("x"), patch)
        endings = [process_shard(broken, job, 0) for _ in range(4)]
    assert not committed(worker, job)

    # It waits for the other one, is started again once, and then goes on with other models.
    assert [type(ending) for ending in endings] == [type(None), WorkerEnds, type(None), type(None)]
    assert process_shard(replace(worker, place="good"), job, 0) is None
    assert not failures(worker, job)


def explainer_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, data: bytes) -> None:
    saliency = register()["saliency"]

    def fails_on_white(model: LoadedModel, images: Tensor, targets: Tensor, params: Any) -> MethodOutput:
        if (images.flatten(1).std(1) == 0).any():
            raise error
        return saliency.function(model, images, targets, params)

    broken = replace(saliency, function=fails_on_white, gradient_at=None)
    monkeypatch.setitem(cast("dict[str, Method]", register()), "saliency", broken)


def prediction_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, data: bytes) -> None:
    whole = predict
    explainer_fails(monkeypatch, ZeroDivisionError("not reached"), data)

    def fails_on_white(model: LoadedModel, images: Tensor) -> Tensor:
        if (images.flatten(1).std(1) == 0).any():
            raise error
        return whole(model, images)

    monkeypatch.setattr("heatmill_workers.shard.explain.predict", fails_on_white)


def decoding_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, data: bytes) -> None:
    whole = decode_reduced

    def fails_on_white(given: bytes, *arguments: Any) -> Any:
        if given == data:
            raise error
        return whole(given, *arguments)

    monkeypatch.setattr("heatmill_workers.shard.prefetch.decode_reduced", fails_on_white)


def rendering_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, data: bytes) -> None:
    whole = ResultWriter._encoded

    def fails_on_the_second(writer: ResultWriter, outcome: Any) -> Any:
        if outcome.asked.photo.item.index == 1:
            raise error
        return whole(writer, outcome)

    monkeypatch.setattr(ResultWriter, "_encoded", fails_on_the_second)


Break = Callable[[pytest.MonkeyPatch, Exception, bytes], None]
everywhere = pytest.mark.parametrize("breaks", [explainer_fails, prediction_fails, decoding_fails, rendering_fails])


@everywhere
def test_a_bug_that_one_image_meets_fails_that_image_alone_once_another_worker_agrees(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, white: bytes, breaks: Break
) -> None:
    beat(worker.state, "other")
    job = job_of(worker, noise(1), white, noise(2), layout="webdataset")
    breaks(monkeypatch, ZeroDivisionError("a bug"), white)

    assert process_shard(worker, job, 0) is None
    assert keys.commit(job, 0, 1) not in committed(worker, job)
    assert process_shard(worker, job, 0) is None, "it leaves it to the other"
    assert keys.commit(job, 0, 1) not in committed(worker, job)
    assert process_shard(replace(worker, name="other"), job, 0) is None

    assert failures(worker, job) == {"image 1": "internal_error"}


@everywhere
def test_what_only_one_worker_sees_fails_nothing(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, white: bytes, breaks: Break
) -> None:
    job = job_of(worker, noise(1), white, noise(2))

    with monkeypatch.context() as patch:
        breaks(patch, ZeroDivisionError("a broken library"), white)
        process_shard(worker, job, 0)
    process_shard(replace(worker, name="other"), job, 0)

    assert not failures(worker, job)
    assert not [name for name in worker.state.client.scan_iter("*doubts*") if str(job) in str(name)]


@pytest.mark.parametrize(
    ("breaks", "fault"),
    [
        (explainer_fails, "device"),
        (prediction_fails, "device"),
        (decoding_fails, "disk"),
        (rendering_fails, "disk"),
        (rendering_fails, "device"),
    ],
)
def test_a_machine_that_fails_in_the_middle_of_a_shard_commits_no_failure_and_ends(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, white: bytes, breaks: Break, fault: str
) -> None:
    job = job_of(worker, noise(1), white, noise(2))

    with monkeypatch.context() as patch:
        breaks(patch, MACHINE_FAULTS[fault], white)
        assert isinstance(process_shard(worker, job, 0), WorkerEnds)
    assert worker.state.client.hget(key(job, "attempts"), "0") in {"0", "1"}
    process_shard(replace(worker, name="other"), job, 0)

    assert not failures(worker, job)


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), "image_too_large"), (FULL, None)])
def test_an_image_that_cannot_be_decoded_for_want_of_room_is_tried_elsewhere(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str | None
) -> None:
    job = job_of(worker, noise(1))

    worker.models.get(MODEL)

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fails)
        ending = process_shard(worker, job, 0)
        assert not committed(worker, job)
        assert isinstance(ending, ProcessEnds if code else WorkerEnds)
        process_shard(replace(worker, name="other"), job, 0)

    assert (failures(worker, job) if code else committed(worker, job)) == ({"image 0": code} if code else [])


def test_an_image_over_which_every_device_fails_is_found_and_fails_alone(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, white: bytes
) -> None:
    job = job_of(worker, *map(noise, range(3)), white, *map(noise, range(3, 17)), shard_items=18)
    explainer_fails(monkeypatch, MACHINE_FAULTS["device"], white)

    endings = 0
    while isinstance(process_shard(replace(worker, name=f"worker {endings}"), job, 0), WorkerEnds):
        endings += 1

    assert endings <= 3
    assert failures(worker, job) == {"image 3": "worker_crashed"}


def test_a_failure_outside_of_items_and_machines_is_tried_again_ever_more_rarely(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, rests = job_of(worker, noise(1)), []

    def bug(*_: object) -> None:
        raise ZeroDivisionError

    def release(job: JobId, number: int, token: str, rest: float, **more: bool) -> None:
        rests.append(rest)
        RedisJobStore.release(worker.state, job, number, token, 0.0, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ShardCommits, "find", bug)
        patch.setattr(worker.state, "release", release)
        for _ in range(9):
            assert process_shard(worker, job, 0) is None
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert "ZeroDivisionError" in str(worker.state.client.hget(key(job, "condition"), "detail"))
    process_shard(worker, job, 0)
    assert failures(worker, job) == {}
    assert len(committed(worker, job)) == 1
