"""Sources are listed in slices, by turns between tenants; a slice is cut short here to one step."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.errors import StorageFull, StorageUnavailable
from heatmill.jobs import records
from heatmill.jobs.registration import register
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.control import plan as planning
from heatmill_workers.control.finish import finish
from heatmill_workers.control.plan import Planner
from heatmill_workers.control.schedule import ControlContext, feed
from tests.workers.controlled import settle
from tests.workers.jobs import accept, sent

UPLOAD = {"image": f"upload://{'a' * 64}"}


def listed(control: ControlContext, sources: str, tenant: str, lines: int, text: str = json.dumps(UPLOAD)) -> JobId:
    """A job over a manifest, of which Redis knows."""
    name = f"{tenant}-{lines}.jsonl"
    control.storage.of_bucket(sources).put(name, f"{text}\n".encode() * lines)
    job = accept(control.storage, tenant, source={"uri": f"s3://{sources}/{name}"})
    register(control.storage, control.state, job)
    feed(control)
    return job


def planned(control: ControlContext, job: JobId) -> bool:
    return control.storage.exists(keys.plan(job))


@pytest.fixture
def control(control: ControlContext) -> ControlContext:
    """One that knows the bundled models."""
    return replace(control, catalogue=load_catalogue())


@pytest.fixture
def planner(control: ControlContext) -> Planner:
    """Plans a shard, or a pause, at a time."""
    return Planner(control, slice_seconds=0)


def test_a_short_source_is_planned_soon_beside_long_ones_of_another_tenant(
    control: ControlContext, sources: str, planner: Planner
) -> None:
    long = [listed(control, sources, "flood", 40 + number) for number in range(4)]
    short = listed(control, sources, "small", 1)

    turns = 0
    while not planned(control, short):
        assert planner.turn() is not None
        turns += 1

    assert turns <= 4
    assert not any(planned(control, job) for job in long)
    while planner.turn() is not None:
        pass
    assert [records.load_plan(control.storage, job).items for job in long] == [40, 41, 42, 43]  # type: ignore[union-attr]


def test_a_long_source_is_read_once_however_many_slices_it_takes(
    control: ControlContext, sources: str, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    lines = S3Storage.lines

    def counted(storage: S3Storage, key: str, most: int) -> Iterator[bytes]:
        nonlocal opened
        opened += 1
        yield from lines(storage, key, most)

    monkeypatch.setattr(S3Storage, "lines", counted)
    job = listed(control, sources, "long", 30)
    other = listed(control, sources, "other", 30)
    while planner.turn() is not None:
        pass

    assert (planned(control, job), planned(control, other), opened) == (True, True, 2)
    items = [item for number in range(15) for item in records.load_shard(control.storage, job, number)]
    assert [item.index for item in items] == list(range(30))


def test_another_process_goes_on_where_the_hold_has_run_out(
    control: ControlContext, sources: str, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "HOLD_SECONDS", 0.1)
    job = listed(control, sources, "long", 9)
    assert planner.turn() == job
    second = Planner(control, slice_seconds=60)
    assert second.turn() == job, "the first holds it"
    assert not planned(control, job)
    time.sleep(0.15)

    assert second.turn() is None
    assert planned(control, job)
    assert planner.turn() is None
    assert records.load_plan(control.storage, job).items == 9  # type: ignore[union-attr]


def test_a_job_that_was_accepted_just_now_is_planned_by_its_message(control: ControlContext, planner: Planner) -> None:
    job = accept(control.storage, items=[UPLOAD])
    register(control.storage, control.state, job)
    while planner.turn(job) is not None:
        pass
    assert planned(control, job)


def test_a_source_without_line_ends_fails_its_job(
    control: ControlContext, sources: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill.storage.lines.MAX_GAP", 2**20)
    control.storage.of_bucket(sources).put("endless.jsonl", b"x" * 3 * 2**20)
    job = accept(control.storage, source={"uri": f"s3://{sources}/endless.jsonl"})
    register(control.storage, control.state, job)
    while Planner(control).turn(job) is not None:
        pass
    settle(control)
    final = load_job(control.storage, control.state, job)
    assert final.error is not None
    assert "a line has more than 1 MiB" in final.error.detail


def test_a_cancel_is_seen_between_two_slices(control: ControlContext, sources: str, planner: Planner) -> None:
    job = listed(control, sources, "long", 40)
    assert planner.turn() == job
    control.storage.write_once(keys.cancelled(job), b"{}")
    control.state.cancel(job)

    planner.turn()
    settle(control)

    assert planner.turn() is None
    assert planner._open == {}
    assert not planned(control, job)
    assert load_job(control.storage, control.state, job).state == "cancelled"


def test_a_tenants_sources_are_planned_one_after_the_other_and_what_is_new_comes_first(
    control: ControlContext, sources: str, planner: Planner
) -> None:
    first = listed(control, sources, "one", 12)
    assert planner.turn() == first
    second = listed(control, sources, "one", 13)
    assert planner.turn() is not None
    while not planned(control, first):
        assert planner.turn() is not None
    assert not planned(control, second)
    assert not control.storage.exists(keys.shard(second, 1)), "it had one slice"


def test_a_source_that_fails_for_a_moment_does_not_stand_in_the_way(
    control: ControlContext, sources: str, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, good = (listed(control, sources, "one", lines) for lines in (4, 5))
    lines = S3Storage.lines

    def failing(storage: S3Storage, key: str, most: int) -> Iterator[bytes]:
        if key == "one-4.jsonl":
            raise StorageUnavailable("not now")
        yield from lines(storage, key, most)

    monkeypatch.setattr(S3Storage, "lines", failing)
    for _ in range(12):
        try:
            planner.turn()
        except StorageUnavailable:
            continue
    assert (planned(control, broken), planned(control, good)) == (False, True)
    monkeypatch.undo()
    while planner.turn() is not None:
        pass
    assert planned(control, broken)


def test_a_source_is_not_listed_for_a_store_that_takes_nothing(
    control: ControlContext, sources: str, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, listings, lines = listed(control, sources, "one", 4), [], S3Storage.lines

    def counted(storage: S3Storage, key: str, most: int) -> Iterator[bytes]:
        listings.append(key)
        yield from lines(storage, key, most)

    def full(storage: S3Storage, key: str, *_: object) -> None:
        raise StorageFull(f"no room for {key}")

    monkeypatch.setattr(S3Storage, "lines", counted)
    with monkeypatch.context() as patch:
        for write in ("put", "write_once"):
            patch.setattr(S3Storage, write, full)
        for _ in range(3):
            with pytest.raises(StorageFull):
                planner.turn()
    assert len(listings) == 1
    while planner.turn() is not None:
        pass
    assert planned(control, job)
    assert len(listings) == 2


def test_a_job_whose_request_is_damaged_does_not_stand_in_the_way_of_others(
    control: ControlContext, sources: str, planner: Planner
) -> None:
    damaged, good = (listed(control, sources, "one", lines) for lines in (4, 5))
    other = listed(control, sources, "other", 4)
    control.storage.put(keys.request(damaged), b"{")
    for _ in range(12):
        with suppress(ValueError):
            planner.turn()
    assert (planned(control, good), planned(control, other)) == (True, True)
    control.state.forget(damaged)


def test_more_sources_than_may_stay_open_are_all_planned(
    control: ControlContext, sources: str, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MAX_OPEN", 1)
    jobs = [listed(control, sources, f"tenant{number}", 7) for number in range(3)]
    while planner.turn() is not None:
        pass
    assert [records.load_plan(control.storage, job).items for job in jobs] == [7] * 3  # type: ignore[union-attr]


def test_a_manifest_of_bad_lines_fails_its_job_with_the_reason_after_the_first_of_them(
    control: ControlContext, sources: str
) -> None:
    job = listed(control, sources, "bad", 3000, "no JSON")
    assert Planner(control, slice_seconds=60).turn() is None
    settle(control)
    final = load_job(control.storage, control.state, job)
    assert final.state == "failed"
    assert final.error is not None
    assert "1,001 of the first 1,001 lines of the manifest are bad" in final.error.detail
    assert sent(control.state) == []


def test_a_job_that_is_over_or_gone_is_not_planned_and_is_forgotten(control: ControlContext, planner: Planner) -> None:
    ended = accept(control.storage, items=[UPLOAD])
    register(control.storage, control.state, ended)
    control.storage.write_once(keys.cancelled(ended), b"{}")
    control.state.cancel(ended)
    finish(control, ended)
    register(control.storage, control.state, ended)
    gone = accept(control.storage, items=[UPLOAD])
    register(control.storage, control.state, gone)
    control.storage.delete([keys.request(gone)])
    feed(control)

    assert planner.turn() is None
    settle(control)
    assert control.state.open_jobs() == []
