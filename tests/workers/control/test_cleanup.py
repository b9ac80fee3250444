"""What deleted jobs and expired jobs leave behind: nothing but a tombstone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from heatmill.catalogue.catalogue import Catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import SWEEP, Dispatcher
from heatmill.errors import JobDeleted, StorageFull
from heatmill.jobs import index as job_index
from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import AccessRefused, S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.control.cleanup import JOBS_PER_TICK
from heatmill_workers.control.finish import finish
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import ControlContext, plan, sweep
from tests.faults import s3_proxy
from tests.faults.s3_proxy import S3Proxy
from tests.workers.jobs import accept, rung

ITEMS = [{"image": f"upload://{number:064x}"} for number in range(3)]


@pytest.fixture
def control(settings: Settings, storage: S3Storage, state: RedisJobStore, dispatcher: Dispatcher) -> ControlContext:
    for prefix in (keys.OPEN_PREFIX, keys.TRASH_PREFIX, keys.EXPIRY_PREFIX):
        storage.delete([entry.key for entry in storage.list(prefix)])
    return ControlContext(
        storage, state, dispatcher, Catalogue((), ()), settings.model_copy(update={"retention_days": 2.0})
    )


def finished(control: ControlContext) -> JobId:
    """A job that is done, by being cancelled."""
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    control.storage.write_once(keys.cancelled(job), b"{}")
    control.state.cancel(job)
    finish(control, job)
    control.storage.put(keys.heatmap(job, 0, "0000.saliency.1"), b"a picture")
    return job


def stored(control: ControlContext, prefix: str) -> list[str]:
    return [entry.key for entry in control.storage.list(prefix)]


def test_a_deleted_jobs_objects_are_swept_and_its_tombstone_stays(control: ControlContext) -> None:
    job, other = finished(control), finished(control)
    before = stored(control, other.prefix)
    records.mark_deleted(control.storage, job)

    sweep(control, job)

    assert stored(control, job.prefix) == [keys.request(job)]
    assert stored(control, keys.TRASH_PREFIX) == []
    assert stored(control, other.prefix) == before
    with pytest.raises(JobDeleted):
        load_job(control.storage, control.state, job)


@pytest.mark.parametrize("has_tombstone", [False, True])
def test_a_deletion_that_was_cut_off_is_completed_by_the_timer(control: ControlContext, has_tombstone: bool) -> None:
    job = finished(control)
    control.storage.put(keys.trash_marker(job), b"")
    if has_tombstone:
        control.storage.put(keys.request(job), records.TOMBSTONE)
    rung(control.state, SWEEP)

    repair(control)
    for named in rung(control.state, SWEEP):
        sweep(control, named)

    assert stored(control, job.prefix) == [keys.request(job)]
    assert stored(control, keys.TRASH_PREFIX) == []


def test_a_job_that_was_deleted_before_redis_forgot_it_is_forgotten(control: ControlContext) -> None:
    job = accept(control.storage, items=ITEMS)
    plan(control, job)
    control.storage.put(keys.final(job), b"{}")
    records.mark_deleted(control.storage, job)

    finish(control, job)

    assert control.state.progress(job) is None
    assert stored(control, keys.OPEN_PREFIX) == []
    assert not control.storage.exists(keys.table(job, 0))


def test_a_job_that_was_not_deleted_is_not_swept(control: ControlContext) -> None:
    job = finished(control)
    before = stored(control, job.prefix)

    sweep(control, job)

    assert stored(control, job.prefix) == before


def test_a_sweep_stops_when_another_has_taken_over(control: ControlContext) -> None:
    job = finished(control)
    records.mark_deleted(control.storage, job)
    assert control.state.acquire_lock(job, "sweeper", "another", 60)

    sweep(control, job)

    assert len(stored(control, job.prefix)) > 1
    assert stored(control, keys.TRASH_PREFIX) == [keys.trash_marker(job)]


def test_a_job_says_when_it_expires_and_then_does(control: ControlContext) -> None:
    job = finished(control)
    final = load_job(control.storage, control.state, job)
    assert final.expires_at is not None
    assert final.finished_at is not None
    assert final.expires_at - final.finished_at == timedelta(days=2)
    repair(control)
    assert load_job(control.storage, control.state, job) == final

    # As if its time had been yesterday.
    (marker,) = stored(control, keys.EXPIRY_PREFIX)
    control.storage.delete([marker])
    control.storage.put(keys.expiry_marker(job, datetime.now(UTC) - timedelta(days=1)), b"")
    repair(control)

    with pytest.raises(JobDeleted):
        load_job(control.storage, control.state, job)
    newest = job_index.newest_first(control.storage, control.state, "default")
    assert job.job not in map(job_index.job_of, newest)
    assert stored(control, keys.EXPIRY_PREFIX) == []
    assert rung(control.state, SWEEP) == {job}


def test_markers_of_expiry_sort_by_time_and_can_be_read_back() -> None:
    job = JobId("tenant", "f" * 32)
    early, late = datetime(2026, 9, 30, 23, 0, 0, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)
    assert keys.expiry_marker(job, early) < keys.expiry_marker(job, late)
    assert keys.read_expiry_marker(keys.expiry_marker(job, early)) == (job, early)


def test_what_was_written_late_is_swept_by_a_second_sweep(control: ControlContext) -> None:
    job = finished(control)
    control.storage.delete(stored(control, keys.EXPIRY_PREFIX))
    records.mark_deleted(control.storage, job)
    sweep(control, job)
    # A worker that was frozen for long thaws.
    control.storage.put(keys.heatmap(job, 0, "0001.saliency.1"), b"a picture")

    # The second finds the picture, so that there is a third, which finds nothing.
    for _ in range(2):
        (again,) = stored(control, keys.EXPIRY_PREFIX)
        assert keys.read_expiry_marker(again)[0] == job
        control.storage.delete([again])
        control.storage.put(keys.expiry_marker(job, datetime.now(UTC) - timedelta(seconds=1)), b"")
        repair(control)
        for named in rung(control.state, SWEEP):
            sweep(control, named)

    assert stored(control, job.prefix) == [keys.request(job)]
    assert stored(control, keys.EXPIRY_PREFIX) == stored(control, keys.TRASH_PREFIX) == []


@pytest.mark.parametrize("prefix", [keys.EXPIRY_PREFIX, keys.TRASH_PREFIX, keys.OPEN_PREFIX])
def test_stray_objects_do_not_keep_the_others_from_being_swept_and_are_told_once(
    control: ControlContext, prefix: str
) -> None:
    job = finished(control)
    control.storage.delete(stored(control, f"{keys.EXPIRY_PREFIX}2"))
    # What a tenant called as the prefix would have there, and more of it than one tick begins with.
    strays = [f"{prefix}{kind}/{number:064x}" for kind in ("blobs", "cache") for number in range(JOBS_PER_TICK)]
    strays += [f"{prefix}0-stray", f"{prefix}jobs/{job.job}/job.json", f"{prefix}20261301T000000Z/a/b/c"]
    for key in strays:
        control.storage.put(key, b"")
    control.storage.put(keys.expiry_marker(job, datetime.now(UTC) - timedelta(days=1)), b"")

    with capture_logs() as first:
        repair(control)
    with capture_logs() as second:
        repair(control)

    assert rung(control.state, SWEEP) == {job}
    assert sorted(each["key"] for each in first if "is none" in each["event"]) == sorted(strays)
    assert [each for each in second if each.get("key") in strays] == []
    assert set(strays) <= set(stored(control, prefix))
    control.storage.delete(strays)


@pytest.mark.parametrize("way", ["deleted", "marked", "expired"])
def test_a_job_goes_though_the_store_takes_nothing_and_makes_room(
    control: ControlContext, proxied: S3Storage, store_proxy: S3Proxy, way: str
) -> None:
    job = finished(control)
    if way == "marked":
        control.storage.put(keys.trash_marker(job), b"")
    if way == "expired":
        control.storage.put(keys.expiry_marker(job, datetime.now(UTC) - timedelta(days=1)), b"")
    store_proxy.behaviour = s3_proxy.full_until_something_goes("/heatmaps/")
    full = replace(control, storage=proxied)

    if way == "deleted":
        records.mark_deleted(proxied, job)
    repair(full)
    for named in rung(control.state, SWEEP):
        sweep(full, named)

    assert stored(control, job.prefix) == [keys.request(job)]
    assert stored(control, keys.TRASH_PREFIX) == []


def test_a_job_whose_deletion_is_refused_for_good_keeps_its_files(
    control: ControlContext, proxied: S3Storage, store_proxy: S3Proxy
) -> None:
    job = finished(control)
    before = stored(control, job.prefix)
    store_proxy.behaviour = s3_proxy.refusing_writes("403 Forbidden", "AccessDenied")

    with pytest.raises(AccessRefused):
        records.mark_deleted(proxied, job)

    assert stored(control, job.prefix) == before


def test_a_job_whose_files_made_no_room_is_still_known(
    control: ControlContext, proxied: S3Storage, store_proxy: S3Proxy
) -> None:
    job = finished(control)
    final = load_job(control.storage, control.state, job)
    store_proxy.behaviour = s3_proxy.full()

    with pytest.raises(StorageFull):
        records.mark_deleted(proxied, job)

    assert load_job(control.storage, control.state, job) == final
    assert not stored(control, f"{job.prefix}heatmaps/")
    store_proxy.heal()
    records.mark_deleted(proxied, job)
    with pytest.raises(JobDeleted):
        load_job(control.storage, control.state, job)


def test_planning_a_deleted_job_does_nothing(control: ControlContext) -> None:
    job = finished(control)
    records.mark_deleted(control.storage, job)

    plan(control, job)

    assert control.state.progress(job) is None
