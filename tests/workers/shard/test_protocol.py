"""Any order of deliveries, deaths, zombies, wipes and cancels over the real pipeline: nothing is lost or doubled.

Each event at each step, by itself, must find four mutations of the protocol: a worker that does not ask whether it was
fenced off, a Redis that does not look who holds the shard, pictures that are written after the commit record, and a
record that is written over another.
"""

from dataclasses import replace
from importlib.resources import files
from typing import Any, ClassVar, cast, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from heatmill.jobs import records
from heatmill.jobs.registration import register
from heatmill.schemas import Layout, StoredFile
from heatmill.schemas.byte_range import span
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill_workers.control.schedule import ControlContext, plan
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard import commit as committing
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.lease import ShardLease
from tests.workers.jobs import MODEL, accept, upload
from tests.workers.one_model import OneModel
from tests.workers.photos import noise
from tests.workers.protocol import Attempt, Event, World, commit_records, pictures

SHARDS = 2
SHARD_ITEMS = 2
# A shard without faults takes 14 to 16 steps, 18 with tars, as its two parts are committed together or apart.
STEPS = 18
EVENTS = st.dictionaries(st.integers(0, STEPS - 1), st.sampled_from(get_args(Event)), max_size=3)


@pytest.fixture
def worker(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    monkeypatch.setattr(committing, "TOGETHER_SECONDS", 0.0)
    worker.storage.__dict__["has_conditional_writes"] = True
    # Without the cache of results, which would copy the pictures of the undisturbed job.
    settings = worker.settings.model_copy(
        update={"result_cache": False, "claim_seconds": 60.0, "max_attempts": 50, "decode_threads": 1}
    )
    return replace(worker, models=cast(ModelStore, OneModel()), settings=settings)


class Machine(RuleBasedStateMachine):
    """One job of two shards, and whatever happens to it."""

    worker: ClassVar[WorkerContext]
    layout: ClassVar[Layout] = "objects"

    @initialize()
    def begin(self) -> None:
        self.worker.state.client.flushall()
        self.world = planned(self.worker, self.layout)

    @rule(shard=st.integers(0, SHARDS - 1), events=EVENTS)
    def deliver(self, shard: int, events: dict[int, Event]) -> None:
        Attempt(self.world, shard, events).run()

    @rule()
    def wipe(self) -> None:
        self.world.state.client.flushall()

    @rule()
    def repair(self) -> None:
        register(self.world.storage, self.world.state, self.world.job)

    @rule()
    def pass_time(self) -> None:
        self.world.pass_time()

    @invariant()
    def nothing_is_wrong(self) -> None:
        check(self.world)

    def teardown(self) -> None:
        """The faults stop."""
        end(self.world, self.layout)


@pytest.mark.parametrize("layout", get_args(Layout))
def test_nothing_is_lost_doubled_or_half_done(
    worker: WorkerContext, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine.worker = worker
    monkeypatch.setattr(Machine, "layout", layout)
    # The same examples every time: what is found, is found.
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
            # A shorter history would say more, and takes minutes to find.
            phases=[Phase.generate],
            print_blob=False,
        ),
    )


@pytest.mark.parametrize("layout", get_args(Layout))
def test_no_step_is_one_at_which_something_is_lost(worker: WorkerContext, layout: Layout) -> None:
    each_event_at_each_step(worker, layout)


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_worker_that_does_not_look_whether_it_was_fenced_off_is_found(
    worker: WorkerContext, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardLease, "check", lambda _: None)

    with pytest.raises(AssertionError, match="a worker that was fenced off has committed"):
        each_event_at_each_step(worker, layout)


def test_a_redis_that_does_not_look_who_holds_a_shard_is_found(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = worker.state
    script = (files("heatmill.coordination") / "lua" / "jobs" / "heartbeat.lua").read_text()
    mutated = script.replace("if holder and holder:match('^(.*) %d+$') ~= ARGV[3] then return 0 end", "")
    assert mutated != script
    monkeypatch.setitem(state._scripts, "heartbeat", state.client.register_script(mutated))

    with pytest.raises(AssertionError, match="a worker that was fenced off has committed"):
        each_event_at_each_step(worker)


def test_a_record_that_is_written_over_another_is_found(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Storage, "write_once", S3Storage.put)

    with pytest.raises(AssertionError, match="a commit record has changed"):
        each_event_at_each_step(worker)


def test_pictures_that_are_written_after_the_commit_record_are_found(worker: WorkerContext) -> None:
    with pytest.raises(AssertionError, match="is not there"):
        each_event_at_each_step(worker, pictures_late=True)


def each_event_at_each_step(worker: WorkerContext, layout: Layout = "objects", **mutation: bool) -> None:
    """One event in the life of a job, for all events and steps."""
    for step in range(STEPS):
        for event in get_args(Event):
            worker.state.client.flushall()
            world = planned(worker, layout)
            Attempt(world, 0, {step: event}, **mutation).run()
            check(world)
            end(world, layout)


def check(world: World) -> None:
    """What holds at any time.

    Raises:
        AssertionError: A record has changed, or names what is not there, or Redis says more than the store.
    """
    world.look()
    there = pictures(world)
    for name in world.first:
        for row in records.load_commit(world.storage, world.job, *name)[1]:
            assert row.error is None, row.error
            assert row.heatmap
            assert row.attribution
            for file, magic in ((row.heatmap, b"\x89PNG"), (row.attribution, b"\x93NUMPY")):
                assert file.key in there, f"{file.key} is not there"
                assert there[file.key][part(file)].startswith(magic)
    progress = world.state.progress(world.job)
    if progress is None:
        return
    stored = records.committed(world.storage, world.job)
    assert progress.committed <= len(stored.shards)
    assert progress.committed * SHARD_ITEMS <= progress.counts.done <= stored.succeeded


def end(world: World, layout: Layout) -> None:
    """The timer and one good worker bring the job to its end, unless it was cancelled.

    Raises:
        AssertionError: Something is missing, or is not as in a job to which nothing happened.
    """
    register(world.storage, world.state, world.job)
    world.pass_time()
    while (shard := world.state.take_next_shard(world.job, 60.0)) is not None:
        Attempt(world, shard, {}).run()
    if world.state.is_cancelled(world.job):
        return
    assert sorted(commit_records(world)) == [(number, part) for number in range(SHARDS) for part in range(SHARD_ITEMS)]
    rows = [row for number in range(SHARDS) for row in records.load_rows(world.storage, world.job, number)]
    assert [(row.index, row.status) for row in rows] == [(index, "succeeded") for index in range(SHARDS * SHARD_ITEMS)]
    assert _without_job(pictures(world), world) == undisturbed(world.worker, layout)
    progress = world.state.progress(world.job)
    assert progress is not None
    assert (progress.committed, progress.counts.done) == (SHARDS, SHARDS * SHARD_ITEMS)


def planned(worker: WorkerContext, layout: Layout = "objects") -> World:
    """A new job, planned and known to Redis."""
    items = [{"image": upload(worker.storage, noise(seed, (8, 8)))} for seed in range(SHARDS * SHARD_ITEMS)]
    asked: dict[str, Any] = {"items": items, "model": MODEL, "methods": [{"name": "saliency"}], "layout": layout}
    job = accept(worker.storage, shard_items=SHARD_ITEMS, **asked)
    control = ControlContext(worker.storage, worker.state, worker.dispatcher, worker.catalogue, worker.settings)
    plan(control, job)
    worker.storage.delete([keys.open_marker(job)])
    written = records.load_plan(worker.storage, job)
    assert written is not None
    return World(worker, job, written)


PICTURES: dict[Layout, dict[str, bytes]] = {}


def undisturbed(worker: WorkerContext, layout: Layout) -> dict[str, bytes]:
    """The pictures of a job to which nothing happens."""
    if layout not in PICTURES:
        world = planned(worker, layout)
        for shard in range(SHARDS):
            Attempt(world, shard, {}).run()
        PICTURES[layout] = _without_job(pictures(world), world)
        assert len(PICTURES[layout]) == (SHARDS * SHARD_ITEMS * (2 if layout == "objects" else 1))
    return PICTURES[layout]


def _without_job(found: dict[str, bytes], world: World) -> dict[str, bytes]:
    job = world.job.job.encode()
    return {key.removeprefix(world.job.prefix): data.replace(job, b"") for key, data in found.items()}


def part(file: StoredFile) -> slice:
    """Where a file is in its object."""
    return slice(None) if file.range is None else span(file.range)
