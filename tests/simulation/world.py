"""A whole service in one process: callers, API, control and explain workers, each of which may die at any call."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination import task_queue as dispatch
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.live_workers import beat
from heatmill.coordination.rings import Rings
from heatmill.coordination.task_queue import (
    CONTROL_QUEUE,
    EXPLAIN_QUEUE,
    PRIORITIES,
    PRIORITY_STEPS,
    Dispatcher,
    lists,
)
from heatmill.errors import DeviceUnusable, QueueUnavailable
from heatmill.schemas import Item
from heatmill.settings import Settings
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_workers.celery_app import tasks
from heatmill_workers.control.plan import Planner
from heatmill_workers.control.schedule import ControlContext
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.giving_back import WorkerEnds
from heatmill_workers.shard.process import process_shard
from tests.simulation.calls import Calls, Faults, MemoryS3, SteppedRedis, memory_storage
from tests.simulation.stepped import Process, Steps

SETTINGS = Settings(
    bucket="simulated",
    shard_seconds=0.15,  # two items
    claim_seconds=6.0,
    queue_patience_seconds=10.0,
    timer_seconds=3.0,
    window_shards=4,
    shard_limit_seconds=60,
    result_cache=False,
    access_log=False,
    source_prefixes=(),
    api_keys_file=Path(__file__).with_name("tenants.json"),
)
WORKERS, CONTROLS = 3, 2
POLL_SECONDS = 0.5
BEAT_SECONDS = 5.0
RESTART_SECONDS = (0.5, 4.0)
ITEM_SECONDS = (0.05, 1.5)


class Broker:
    """What `Dispatcher` asks of a Celery app: messages lie in Redis' lists, are lost, late, or come twice."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def send_task(self, name: str, *, args: list[Any], queue: str, priority: int, **_: Any) -> None:
        """Send."""
        world, message = self._world, json.dumps([name, args])
        target = lists(queue, PRIORITIES[priority])[0]
        world.redis._passed(f"send {name} {args}", lambda: world.post(target, message))


class World:
    """The service. It is made once; `start` begins a seed.

    Attributes:
        at_work: The shard that each explain process has.
        hurt: Shards whose attempts may have ended by violence, which makes workers careful and may fail an item.
        claimed: Tenants of the shards that were begun, in order.
        unforeseen: Errors that no task should end with.
    """

    def __init__(self) -> None:
        self.calls = Calls()
        self.calls.on_death = self._died
        self.calls.on_violence = self._suffers
        self.server = fakeredis.FakeServer()
        self.raw = fakeredis.FakeStrictRedis(server=self.server, decode_responses=True)
        self.redis = SteppedRedis(server=self.server, decode_responses=True)
        self.redis.calls = self.calls
        self.s3 = MemoryS3(self.calls)
        self.storage = memory_storage(self.s3)
        self.state = RedisJobStore(self.redis)
        schedule = self.state.schedule
        named = {**self.state._scripts, **schedule._scripts}
        self.redis.scripts = {script.sha: name for name, script in named.items()}
        # Else the first seed of a process would have calls that the others have not.
        for script in named.values():
            self.raw.script_load(script.script)
        self.dispatcher = Dispatcher(Broker(self), Rings(self.redis))
        self.catalogue = load_catalogue()
        self.app = create_app(ApiContext(self.storage, self.state, self.dispatcher, self.catalogue, SETTINGS))
        self.control = ControlContext(self.storage, self.state, self.dispatcher, self.catalogue, SETTINGS)
        self.here = SimpleNamespace(control=lambda: self.control, planner=self._planner)
        self.start(0)

    @property
    def steps(self) -> Steps:
        """The clock."""
        return self.calls.steps

    def start(self, seed: int) -> None:
        """Begin with nothing."""
        self.calls.steps = Steps(seed)
        self.calls.faults = Faults()
        self.s3.objects.clear()
        self.s3.broken.clear()
        self.raw.flushall()
        self.redis.run_id = "1"
        self.network = Process("network", immortal=True)
        self.planners: dict[Process, Planner] = {}
        self.at_work: dict[Process, tuple[str, int, str]] = {}
        self.hurt: set[tuple[str, int]] = set()
        self.claimed: list[JobId] = []
        self.killers: set[str] = set()
        self.sick: set[str] = set()
        self.unforeseen: list[str] = []
        self.apis: list[Process] = []

    def launch(self) -> None:
        """All roles; whoever dies is started again."""
        for number in range(2):
            self._keep_up(f"api{number}", self.apis.append)
        for number in range(self.steps.random.randint(1, CONTROLS)):
            self._keep_up(f"control{number}", self._control)
        for number in range(WORKERS):
            self._keep_up(f"worker{number}", self._explain)

    def post(self, target: str, message: str) -> None:
        """Put a message into a queue, or not, or later, or twice."""
        random, faults = self.steps.random, self.calls.faults
        if random.random() < faults.lost:
            self.steps.note(f"LOST {message}")
            return
        for _ in range(2 if random.random() < faults.twice else 1):
            if random.random() < faults.delayed:
                later = random.uniform(0.0, 30.0)
                self.steps.note(f"DELAYED by {later:.1f} s: {message}")
                self.steps.spawn(self.network, lambda: self._lay(target, message), later)
            else:
                self._lay(target, message)

    def wipe(self) -> None:
        """Redis is started again, empty."""
        self.steps.note("WIPED")
        self.raw.flushall()
        self.redis.run_id = str(int(self.redis.run_id) + 1)
        self.hurt |= {(job, shard) for job, shard, _ in self.at_work.values()}

    def request(self, method: str, path: str, headers: dict[str, str], **more: Any) -> Any:
        """One call of a caller to an API process; None where there is no answer."""
        process = self.steps.random.choice(self.apis)
        answers: list[Any] = []

        def serve() -> None:
            client = self.app.test_client()
            answers.append(client.open(path, method=method, headers=headers, **more))

        actor = self.steps.spawn(process, serve)
        while not actor.done and process.alive:
            self.steps.sleep(0.2)
        if process.alive and answers:
            self.steps.note(f"{method} {path}: {answers[0].status_code}")
            return answers[0]
        return None

    def compute(self, item: Item) -> None:
        """What a device does to an item."""
        assert self.steps.current is not None
        process = self.steps.current.process
        self.steps.sleep(self.steps.random.uniform(*ITEM_SECONDS))
        if item.image in self.killers:
            self.steps.note(f"item {item.id} kills")
            self.calls.die()
        if process.place in self.sick:
            raise DeviceUnusable("the device is sick")

    def _lay(self, target: str, message: str) -> None:
        if self.steps.random.random() < self.calls.faults.reordered:
            self.raw.rpush(target, message)
        else:
            self.raw.lpush(target, message)

    def _keep_up(self, place: str, start: Callable[[Process], None]) -> None:
        """Start a process, and another one when it has died."""

        def supervise() -> None:
            for number in range(1_000_000):
                process = Process(f"{place}.{number}", place)
                self.steps.note(f"{process.name} starts")
                start(process)
                while process.alive:
                    self.steps.sleep(POLL_SECONDS)
                if process in self.apis:
                    self.apis.remove(process)
                self.steps.sleep(self.steps.random.uniform(*RESTART_SECONDS))

        self.steps.spawn(self.network, supervise)

    def _suffers(self, process: Process) -> None:
        if (held := self.at_work.get(process)) is not None:
            self.hurt.add(held[:2])

    def _died(self, process: Process) -> None:
        """A message that was being worked on comes again, or is lost with its worker."""
        if (held := self.at_work.pop(process, None)) is not None:
            job, shard, raw = held
            self.hurt.add((job, shard))
            if self.steps.random.random() < 0.5:
                self.steps.spawn(self.network, lambda: self._lay(EXPLAIN_QUEUE, raw), self.steps.random.uniform(0, 9))

    def _explain(self, process: Process) -> None:
        self.steps.spawn(process, lambda: self._beat(process))
        self.steps.spawn(process, lambda: self._consume(process, EXPLAIN_QUEUE, self._explain_one))

    def _control(self, process: Process) -> None:
        self.planners[process] = Planner(self.control)
        for _ in range(2):
            self.steps.spawn(process, lambda: self._consume(process, CONTROL_QUEUE, self._control_one))
        self.steps.spawn(process, lambda: self._repair(process))

    def _consume(self, process: Process, queue: str, take: Callable[[Process, str], None]) -> None:
        names = [lists(queue, priority)[0] for priority in PRIORITY_STEPS]
        self.steps.sleep(self.steps.random.uniform(0, POLL_SECONDS))
        while process.alive:
            raw = None
            if "redis" not in self.calls.faults.away and self._holds(names):
                raw = next((found for name in names if (found := self.raw.rpop(name)) is not None), None)
            if raw is None:
                self.steps.sleep(POLL_SECONDS)
            else:
                take(process, str(raw))

    def _holds(self, names: list[str]) -> bool:
        """Whether there is a message; a command for each look would be half of all time."""
        return any(name.encode() in self.server.dbs[0] for name in names)

    def _explain_one(self, process: Process, raw: str) -> None:
        _, (tenant, job, shard) = json.loads(raw)
        self.at_work[process] = (f"{tenant}/{job}", shard, raw)
        self.claimed.append(JobId(tenant, job))
        self.steps.note(f"takes {tenant}/{job} {shard}")
        worker = WorkerContext(
            self.storage,
            self.state,
            self.dispatcher,
            self.catalogue,
            None,  # type: ignore[arg-type]
            SETTINGS,
            process.name,
            "code",
        )
        worker = replace(worker, place=process.place, process=process.name)
        with self._seen(), suppress(QueueUnavailable):
            ending = process_shard(worker, JobId(tenant, job), shard)
            if ending is not None:
                process.alive = False
                self.steps.note(f"ends: {ending}")
                if isinstance(ending, WorkerEnds):
                    self.sick.discard(process.place) if self.steps.random.random() < 0.3 else None
        self.at_work.pop(process, None)

    def _control_one(self, _: Process, raw: str) -> None:
        name, arguments = json.loads(raw)
        self.steps.note(f"takes {name} {arguments}")
        with self._seen():
            {
                dispatch.PLAN: tasks.plan_job,
                dispatch.FINISH: tasks.finish_job,
                dispatch.FEED: tasks.feed_queue,
                dispatch.SWEEP: tasks.sweep_job,
            }[name].run(*arguments)

    def _repair(self, process: Process) -> None:
        while process.alive:
            self.steps.sleep(SETTINGS.timer_seconds)
            with self._seen():
                tasks.repair_jobs()

    def _beat(self, process: Process) -> None:
        while process.alive:
            with suppress(QueueUnavailable):
                beat(self.state, process.place)
            self.steps.sleep(BEAT_SECONDS)

    def _planner(self) -> Planner:
        assert self.steps.current is not None
        return self.planners[self.steps.current.process]

    def _seen(self) -> Any:
        return Unforeseen(self)


class Unforeseen:
    """Notes an error with which a task ends, and goes on, as Celery and the timer do."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        if not isinstance(error, QueueUnavailable):
            self._world.unforeseen.append(f"{type(error).__name__}: {error}")
            self._world.steps.note(f"UNFORESEEN {error!r}")
        return True
