"""A shard whose worker stops, dies or is slow is gone on with part by part; what is committed is not done again."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from heatmill.jobs import records
from heatmill.jobs.registration import register
from heatmill.jobs.status import load_job
from heatmill.schemas import Layout, Plan, Problem, Row
from heatmill.storage import keys
from heatmill.storage.keys import JobId, ShardId
from heatmill_workers.control.finish import finish
from heatmill_workers.job_maps.features import load_features
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard import commit as committing
from heatmill_workers.shard import run
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.explain import Answer, explain_items
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import pass_time, upload
from tests.workers.one_model import OneModel
from tests.workers.photos import noise
from tests.workers.processed import control_of, planned_fresh, rows_of

SALIENCY = [{"name": "saliency"}]
PROBLEM = Problem(type="x", title="x", detail="as an earlier version had it")


class Died(BaseException):
    """kill -9 of the worker."""


@pytest.fixture
def worker(worker: WorkerContext) -> WorkerContext:
    """Without the cache of results, which asks more of a model."""
    settings = worker.settings.model_copy(update={"result_cache": False})
    return replace(worker, models=cast(ModelStore, OneModel()), settings=settings)


@pytest.fixture(autouse=True)
def parts_are_committed_as_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committing, "TOGETHER_SECONDS", 0.0)
    monkeypatch.setattr(run, "GROUPS_BEHIND", 0)


def images(worker: WorkerContext, count: int) -> list[dict[str, str]]:
    return [{"image": upload(worker.storage, noise(seed, (8, 8)))} for seed in range(count)]


def planned(worker: WorkerContext, items: int, **request: Any) -> JobId:
    request = {"methods": SALIENCY, "shard_items": items, **request}
    return planned_fresh(worker, items=images(worker, items), **request)


def before_group(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> list[list[int]]:
    """Do something before each group that is explained; tells the groups, by the indices of their items."""
    seen: list[list[int]] = []

    def watched(group: Any, plan: Plan, model: Any) -> Iterator[Answer]:
        seen.append([entry.item.index for entry in group])
        act(len(seen))
        return explain_items(group, plan, model)

    monkeypatch.setattr(run, "explain_items", watched)
    return seen


def dies_at(group: int) -> Callable[[int], None]:
    def act(number: int) -> None:
        if number == group:
            raise Died

    return act


def stops_after(groups: int) -> Callable[[], bool]:
    """A worker is asked to stop before it begins with another group."""
    asked = iter(range(1000))
    return lambda: next(asked) >= groups


def parts_there(worker: WorkerContext, job: JobId, shard: int = 0) -> list[int | None]:
    return [name.part for name in records.shard_names(worker.storage, job, shard)]


def attempts(worker: WorkerContext, job: JobId) -> str | None:
    return cast("str | None", worker.state.client.hget(f"heatmill:{{{job}}}:attempts", "0"))


def stored(worker: WorkerContext, job: JobId) -> dict[str, bytes]:
    found = [entry.key for entry in worker.storage.list(job.prefix)]
    return {key: worker.storage.get(key) for key in found}


@pytest.mark.parametrize("layout", ["objects", "webdataset"])
def test_a_part_is_committed_and_counted_while_the_next_ones_are_explained(
    worker: WorkerContext, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(worker, 20, layout=layout)
    there = []

    def look(_: int) -> None:
        # What a part names is there before its record.
        for row in rows_of(worker, job) if parts_there(worker, job) else ():
            assert row.heatmap
            assert worker.storage.exists(row.heatmap.key)
        there.append((parts_there(worker, job), load_job(worker.storage, worker.state, job).counts.succeeded))

    groups = before_group(monkeypatch, look)
    process_shard(worker, job, 0)

    assert groups == [list(range(start, min(start + 3, 20))) for start in range(0, 20, 3)]
    assert there == [(list(range(done)), 3 * done) for done in range(7)]
    headers = [records.load_header(worker.storage, job, 0, part) for part in range(7)]
    assert [header and (header.part, header.parts, header.items) for header in headers] == [
        (part, 7, (3 * part, min(3 * part + 3, 20))) for part in range(7)
    ]
    tars = [key.removeprefix(job.prefix) for key in stored(worker, job) if "/shards.out/" in key]
    assert tars == ([f"shards.out/000000.{part}.tar" for part in range(7)] if layout == "webdataset" else [])
    assert load_job(worker.storage, worker.state, job).counts.succeeded == 20


@pytest.mark.parametrize("layout", ["objects", "webdataset"])
@pytest.mark.parametrize("forgotten", [False, True], ids=["known to Redis", "after a wipe"])
def test_after_a_worker_was_killed_the_next_does_only_what_is_left(
    worker: WorkerContext, layout: Layout, monkeypatch: pytest.MonkeyPatch, *, forgotten: bool
) -> None:
    job = planned(worker, 16, layout=layout)
    with monkeypatch.context() as patch:
        before_group(patch, dies_at(4))
        with pytest.raises(Died):
            process_shard(worker, job, 0)
    assert parts_there(worker, job) == [0, 1, 2]
    left = stored(worker, job)
    if forgotten:
        worker.state.client.flushall()
        register(worker.storage, worker.state, job)
    assert load_job(worker.storage, worker.state, job).counts.succeeded == 6
    pass_time(worker.state, job)

    groups = before_group(monkeypatch, lambda _: None)
    process_shard(replace(worker, name="another"), job, 0)

    assert [index for group in groups for index in group] == list(range(6, 16))
    assert left.items() <= stored(worker, job).items()
    assert [row.status for row in rows_of(worker, job)] == ["succeeded"] * 16
    progress = worker.state.progress(job)
    assert progress
    assert (progress.committed, progress.counts.succeeded) == (1, 16)
    finish(control_of(worker), job)
    final = records.load_final(worker.storage, job)
    assert final
    assert (final.state, final.counts.succeeded) == ("succeeded", 16)


def test_a_worker_that_is_asked_to_stop_finishes_the_part_at_work_and_gives_the_rest_back_uncounted(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(worker, 200)
    groups: list[list[int]] = []
    stopping = replace(worker, is_stopping=lambda: len(groups) >= 3)
    groups = before_group(monkeypatch, lambda _: None)

    process_shard(stopping, job, 0)

    # A part of 25 images is two groups.
    assert [len(group) for group in groups] == [16, 9, 16, 9]
    assert parts_there(worker, job) == [0, 1]
    assert attempts(worker, job) == "0"
    assert load_job(worker.storage, worker.state, job).counts.succeeded == 50
    assert worker.state.take_next_shard(job, 60) == 0
    process_shard(worker, job, 0)
    assert len(rows_of(worker, job)) == 200
    assert sum(map(len, groups)) == 200


def test_a_worker_that_stops_before_it_begins_does_nothing_and_counts_nothing(worker: WorkerContext) -> None:
    job = planned(worker, 4)
    process_shard(replace(worker, is_stopping=lambda: True), job, 0)
    assert parts_there(worker, job) == []
    assert attempts(worker, job) == "0"


def test_a_worker_that_is_far_slower_than_was_thought_does_all_of_a_shard_bit_by_bit(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(worker, settings=worker.settings.model_copy(update={"shard_limit_seconds": 1}))
    job = planned(worker, 64)
    groups = before_group(monkeypatch, lambda _: time.sleep(0.4))
    tried = 0
    while worker.state.claim(job, 0, "asks", 0.0) != "committed":
        worker.state.release(job, 0, "asks", 0.0)
        process_shard(slow, job, 0)
        tried += 1
        assert attempts(worker, job) in {"0", None}
        assert tried < 9, "each attempt gets on"

    assert tried > 2
    assert [index for group in groups for index in group] == list(range(64)), "nothing is done twice"
    assert [row.status for row in rows_of(worker, job)] == ["succeeded"] * 64


def test_images_that_take_longer_together_than_the_time_limit_are_not_taken_for_crashes(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a group is stood in for by a death where a group has more than one image."""
    job = planned(worker, 64)

    def killed_by_the_limit(_: int) -> None:
        if len(groups[-1]) > 1:
            raise Died

    groups = before_group(monkeypatch, killed_by_the_limit)
    with pytest.raises(Died):
        process_shard(worker, job, 0)
    pass_time(worker.state, job)
    process_shard(worker, job, 0)

    assert {len(group) for group in groups[1:]} == {1}
    assert [row.status for row in rows_of(worker, job)] == ["succeeded"] * 64


def test_what_goes_alone_goes_on_alone_after_it_was_given_back(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(worker, 24)
    groups = before_group(monkeypatch, dies_at(1))
    with pytest.raises(Died):
        process_shard(worker, job, 0)
    for _ in range(4):
        pass_time(worker.state, job)
        # After six images, each by itself: two parts of three.
        process_shard(replace(worker, is_stopping=stops_after(6)), job, 0)

    assert {len(group) for group in groups[1:]} == {1}
    assert [group[0] for group in groups[1:]] == list(range(24))
    assert [row.status for row in rows_of(worker, job)] == ["succeeded"] * 24


def test_deaths_between_which_parts_are_committed_do_not_add_up(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(worker, 8)
    for _ in range(7):
        with monkeypatch.context() as patch:
            before_group(patch, dies_at(2))
            with pytest.raises(Died):
                process_shard(worker, job, 0)
        pass_time(worker.state, job)
        # Nobody was killed by an image.
        worker.state.clear_mark(job, 0)

    process_shard(worker, job, 0)

    assert [row.status for row in rows_of(worker, job)] == ["succeeded"] * 8


def test_what_fails_after_some_parts_fails_the_others_only(worker: WorkerContext) -> None:
    job = planned(worker, 8)
    process_shard(replace(worker, is_stopping=stops_after(3)), job, 0)
    assert parts_there(worker, job) == [0, 1, 2]

    class Broken:
        """Has no model."""

        def get(self, name: str) -> None:
            raise ZeroDivisionError(name)

    for name in ("one", "another"):
        assert parts_there(worker, job) == [0, 1, 2]
        process_shard(replace(worker, models=cast("ModelStore", Broken()), name=name), job, 0)

    assert [row.status for row in rows_of(worker, job)] == ["succeeded"] * 3 + ["failed"] * 5


def test_a_job_that_was_half_done_by_an_earlier_version_is_finished(worker: WorkerContext) -> None:
    job = planned_fresh(worker, items=images(worker, 6), methods=SALIENCY, shard_items=2)
    # Shard 0 is committed as a whole; of shard 1 only the tar, or the pictures, were there.
    rows = [Row(item=str(n), index=n, method="saliency", rank=0, status="failed", error=PROBLEM) for n in range(2)]
    _, record = records.commit_record(ShardId(job, 0), rows, 1.0, "old")
    worker.storage.write_once(keys.commit(job, 0), record)
    worker.storage.put(f"{job.prefix}shards.out/000001.tar", b"old")
    worker.state.client.flushall()
    register(worker.storage, worker.state, job)
    assert load_job(worker.storage, worker.state, job).counts.failed == 2
    assert worker.state.claim(job, 0, "x", 1) == "committed"

    for number in range(3):
        process_shard(worker, job, number)
    finish(control_of(worker), job)

    final = records.load_final(worker.storage, job)
    assert final
    assert (final.state, final.counts.succeeded, final.counts.failed) == ("partly_failed", 4, 2)
    assert [row.index for row in rows_of(worker, job)] == list(range(6))


def test_a_shard_that_an_earlier_version_did_as_a_whole_while_it_was_half_done_counts_once(
    worker: WorkerContext,
) -> None:
    job = planned(worker, 4)
    process_shard(replace(worker, is_stopping=stops_after(2)), job, 0)
    rows = [Row(item=str(n), index=n, method="saliency", rank=0, status="failed", error=PROBLEM) for n in range(4)]
    worker.storage.write_once(keys.commit(job, 0), records.commit_record(ShardId(job, 0), rows, 1.0, "old")[1])

    process_shard(worker, job, 0)

    assert parts_there(worker, job) == [None]
    progress = worker.state.progress(job)
    assert progress
    assert (progress.committed, progress.counts.succeeded, progress.counts.failed) == (1, 0, 4)
    assert rows_of(worker, job) == rows
    finish(control_of(worker), job)
    assert load_job(worker.storage, worker.state, job).counts.failed == 4


def test_the_table_and_a_retry_of_what_failed_read_parts(worker: WorkerContext) -> None:
    bad = upload(worker.storage, b"not an image")
    items = [
        {"id": str(n), "image": bad if n in (1, 5) else upload(worker.storage, noise(n, (8, 8)))} for n in range(8)
    ]
    job = planned_fresh(worker, items=items, methods=SALIENCY)
    process_shard(worker, job, 0)
    finish(control_of(worker), job)

    again = planned_fresh(worker, source={"uri": f"job://{job.job}/failed"}, methods=SALIENCY)

    assert [item.id for item in records.load_shard(worker.storage, again, 0)] == ["1", "5"]
    assert worker.storage.exists(keys.table(job, 0))


def test_features_of_parts_and_of_whole_shards_are_found(worker: WorkerContext, models: ModelStore) -> None:
    worker = replace(worker, models=models)
    job = planned(worker, 4, methods=[], map={"method": "tsne", "perplexity": 2})
    process_shard(worker, job, 0)
    found = load_features(worker.storage, job, 0)
    assert [*found] == [0, 1, 2, 3]
    assert [name for name in stored(worker, job) if "/features/" in name] == [
        keys.features(job, 0, part) for part in range(4)
    ]

    worker.storage.put(keys.features(job, 1), worker.storage.get(keys.features(job, 0, 2)))
    assert [*load_features(worker.storage, job, 1)] == [2]


def test_a_cancelled_jobs_parts_that_are_done_stay(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    job = planned(worker, 8)

    def cancel(number: int) -> None:
        if number == 3:
            worker.storage.write_once(keys.cancelled(job), b"{}")
            worker.state.cancel(job)

    before_group(monkeypatch, cancel)
    process_shard(worker, job, 0)
    finish(control_of(worker), job)

    final = records.load_final(worker.storage, job)
    assert final
    assert final.state == "cancelled"
    assert (final.counts.succeeded, final.counts.cancelled) == (
        len(parts_there(worker, job)),
        8 - final.counts.succeeded,
    )
    assert 2 <= final.counts.succeeded <= 3
