"""The checker finds each kind of wrong history, and nothing in a right one."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.faults import classifier
from tests.faults.chaos.checking import violations
from tests.faults.chaos.evidence import Evidence, Record, Result, StoredJob
from tests.faults.chaos.log import AnyEvent, Asked, Broken, RowsRead, StatusRead, Submitted
from tests.faults.chaos.schedule import PLACES, POOL, schedule

JOB, CANCELLED, DELETED, UNANSWERED = "a/done", "a/cancelled", "a/deleted", "a/unanswered"
ITEMS = tuple(f"{number:02}-{photo.id}" for number, photo in enumerate(POOL[:4]))
REFERENCE = {(photo.id, 0): Result(photo.id, "saliency", 0, 1, (f"png of {photo.id}", "npy")) for photo in POOL}


def result(item: str, **changes: Any) -> Result:
    return replace(REFERENCE[item.split("-", 1)[1], 0], item=item, **changes)


def record(shard: int, written: float, *items: str) -> Record:
    return Record(shard, written, tuple(result(item) for item in items))


DONE = StoredJob("succeeded", False, 2, (4, 4, 0, 0), (record(0, 12, *ITEMS[:2]), record(1, 14, *ITEMS[2:])), 20)
STOPPED = StoredJob("cancelled", False, 2, (4, 2, 0, 2), (record(0, 12, *ITEMS[:2]),), 20)


def submit(job: str, phase: Any = "acknowledged", **changes: Any) -> Submitted:
    status = 202 if phase == "acknowledged" else 0
    known = job if phase == "acknowledged" else None
    fields: dict[str, Any] = {"items": ITEMS, "status": status, "job": known, **changes}
    return Submitted(begun=10, ended=11, phase=phase, tenant="a", key=f"key of {job}", **fields)


def read(at: float, succeeded: int, state: str = "running") -> StatusRead:
    return StatusRead(begun=at, ended=at + 0.1, job=JOB, status=200, state=state, total=4, succeeded=succeeded)


def rows(at: float, *items: str, job: str = JOB) -> RowsRead:
    return RowsRead(begun=at, ended=at + 0.1, job=job, status=200, rows=tuple(f"{item} saliency 0" for item in items))


def fault(place: str, begun: float, ended: float) -> Broken:
    return Broken(begun=begun, ended=ended, place=place, kind="any")


RIGHT = Evidence(
    events=(
        *(submit(job, "invoked") for job in (JOB, CANCELLED, DELETED, UNANSWERED)),
        *(submit(job) for job in (JOB, CANCELLED, DELETED)),
        submit(UNANSWERED, "failed"),
        Asked(begun=12, ended=13, what="cancel", job=CANCELLED, status=202),
        Asked(begun=20, ended=21, what="delete", job=DELETED, status=204),
        *(read(12.5, 2), read(15, 4), read(17, 4, "succeeded")),
        *(rows(12.5, *ITEMS[:2]), rows(17, *ITEMS)),
    ),
    jobs={JOB: DONE, CANCELLED: STOPPED, DELETED: StoredJob(is_deleted=True, objects=1)},
    reference=REFERENCE,
    by_key={("a", f"key of {job}"): job for job in (JOB, CANCELLED, DELETED, UNANSWERED)},
    # Of the POST that died between the marker and the job.
    markers=(f"open/{UNANSWERED}",),
    attempts={JOB: 2},
)


def happened(*events: AnyEvent) -> Evidence:
    return replace(RIGHT, events=(*RIGHT.events, *events))


def stored(job: str, **changes: Any) -> Evidence:
    return replace(RIGHT, jobs={**RIGHT.jobs, job: replace(RIGHT.jobs.get(job, DONE), **changes)})


def with_second_record(*results: Result, **changes: Any) -> Evidence:
    return stored(JOB, records=(DONE.records[0], Record(1, 14, results, **changes)))


CRASHED = tuple(result(item, picture=None, target=None, error="worker_crashed") for item in ITEMS[2:])
WRONG = {
    "acknowledged and lost": replace(RIGHT, jobs={CANCELLED: STOPPED, DELETED: RIGHT.jobs[DELETED]}),
    "not terminal": stored(JOB, state=None),
    "half of a job that was not acknowledged": replace(RIGHT, jobs={**RIGHT.jobs, UNANSWERED: StoredJob(objects=3)}),
    "still not done": replace(RIGHT, healed_seconds=None),
    "a job that nobody asked for": replace(RIGHT, jobs={**RIGHT.jobs, "a/stranger": DONE}),
    "2 jobs": happened(submit(JOB).model_copy(update={"job": "a/other"})),
    "2 rows of": with_second_record(*DONE.records[1].results, result(ITEMS[0])),
    "which nobody asked for": with_second_record(*DONE.records[1].results, result(f"09-{POOL[9].id}")),
    "no row of": with_second_record(result(ITEMS[2])),
    "its counts are": stored(JOB, counts=(4, 3, 0, 1)),
    "does not fit its own header": with_second_record(*DONE.records[1].results, is_sound=False),
    "is not what a run without faults gives": with_second_record(
        result(ITEMS[2]), result(ITEMS[3], picture=("other bytes", "npy"))
    ),
    "is image_unreadable": with_second_record(result(ITEMS[2]), result(ITEMS[3], error="image_unreadable")),
    "2 items are blamed for 1 deaths": replace(
        with_second_record(*CRASHED), events=(*RIGHT.events, fault("explain-1", 12, 13))
    ),
    "read ('running', 4, 4, 0), then ('running', 4, 3, 0)": happened(read(15.5, 3)),
    "read ('succeeded', 4, 4, 0), then ('running', 4, 4, 0)": happened(read(18, 4)),
    "and the truth is": happened(read(18, 5, "succeeded")),
    "a row was read twice": happened(rows(18, *ITEMS, ITEMS[0])),
    "rows were read that are not there": happened(rows(18, *ITEMS, f"09-{POOL[9].id}")),
    "4 rows were read, then 3": happened(rows(18, *ITEMS[:3])),
    "committed after the cancel": stored(
        CANCELLED, counts=(4, 4, 0, 0), records=(record(0, 12, *ITEMS[:2]), record(1, 18, *ITEMS[2:]))
    ),
    f"open/{JOB} is left": replace(RIGHT, markers=(f"open/{JOB}",)),
    f"trash/{DELETED} is left": replace(RIGHT, markers=(f"trash/{DELETED}",)),
    "Redis still knows": replace(RIGHT, memory=("heatmill:{a/done}:job",)),
    "objects are left with its tombstone": stored(DELETED, objects=2),
    "took 8 attempts": replace(RIGHT, attempts={JOB: 8}),
    "status was answered with 500": happened(StatusRead(begun=12, ended=13, job=JOB, status=500)),
    "submit was answered with 422": happened(submit(JOB, "failed", status=422)),
    "delete was answered with 409": happened(Asked(begun=18, ended=19, what="delete", job=JOB, status=409)),
    "status was answered with 404": happened(StatusRead(begun=12, ended=13, job=JOB, status=404)),
}


def test_a_right_history_passes() -> None:
    assert violations(RIGHT) == []


@pytest.mark.parametrize("sign", WRONG)
def test_a_wrong_history_is_found(sign: str) -> None:
    signs = {"half of a job that was not acknowledged": "a/unanswered: not terminal"}
    assert [fault for fault in violations(WRONG[sign]) if signs.get(sign, sign) in fault]


EXCUSED: dict[str, Callable[[], Evidence]] = {
    "a Redis that was wiped shows less for a while": lambda: happened(fault("redis", 15.2, 15.3), read(15.5, 3)),
    "a shard that a fault held up is committed after the cancel": lambda: replace(
        WRONG["committed after the cancel"], events=(*RIGHT.events, fault("store", 12, 17))
    ),
    "a job that is cancelled before it is planned has no items": lambda: stored(
        CANCELLED, counts=(0, 0, 0, 0), records=(), shards=0
    ),
    "a death blames one item": lambda: replace(
        stored(
            JOB,
            state="partly_failed",
            counts=(4, 3, 1, 0),
            records=(DONE.records[0], Record(1, 14, (result(ITEMS[2]), CRASHED[1]))),
        ),
        events=(*(e for e in RIGHT.events if not isinstance(e, StatusRead)), fault("explain-1", 12, 13)),
    ),
}


@pytest.mark.parametrize("excuse", EXCUSED)
def test_what_faults_are_known_to_do_passes(excuse: str) -> None:
    assert violations(EXCUSED[excuse]()) == []


def test_a_redis_that_was_wiped_long_ago_is_no_excuse() -> None:
    assert violations(happened(fault("redis", 1, 1.5), read(15.5, 3)))


def test_the_gradients_of_the_photos_do_not_depend_on_rounding() -> None:
    model = classifier.build()
    assert isinstance(model, classifier.Obedient)
    for photo in POOL:
        pixels = np.array(Image.open(io.BytesIO(photo.data)), dtype=np.float32) / 255
        with torch.no_grad():
            activations = model.convolution(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        assert activations.abs().min() > 1e-5, photo.id


def test_a_seed_is_a_schedule() -> None:
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)
    kinds = {(fault.place, fault.kind) for seed in range(20) for fault in schedule(seed, 60).faults}
    assert kinds == {(name, kind) for name, place in PLACES.items() for kind in place.kinds}
