"""What the product takes from its surroundings, stepped: time, randomness, threads, and the device's work."""

import os
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import structlog
import torch

from heatmill.errors import ItemError
from heatmill.jobs import status as progress
from heatmill.jobs.planner import expected_rows
from heatmill.schemas import Item, Plan, Row, Target
from heatmill_api.jobs import accept as accepting
from heatmill_workers.celery_app import tasks
from heatmill_workers.control import cleanup as sweeping
from heatmill_workers.control import finish as finishing
from heatmill_workers.control import repair as repairing
from heatmill_workers.control.schedule import feed
from heatmill_workers.shard import lease as claims
from heatmill_workers.shard import process as pipeline
from heatmill_workers.shard import run
from heatmill_workers.shard.crash_guard import CrashGuard
from heatmill_workers.shard.explain import failed_rows
from tests.simulation.stepped import SteppedEvent, SteppedThread, Steps

READS_THE_CLOCK = (accepting, finishing, repairing, sweeping, progress)


class Inline(Executor):
    """A pool that does at once what it is given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Of any size."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Do it; a kill is nobody's result."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - as pools do
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class NoModel:
    """A model of which nothing is asked."""

    name: str = "none"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pictures: object = None


@dataclass(frozen=True)
class Looked:
    """An item that is ready for the device."""

    item: Item
    error: ItemError | None = None


@dataclass(frozen=True)
class NoPhotos:
    """Items without photos; the watch over those that kill workers is the real one."""

    watch: CrashGuard
    model: NoModel = NoModel()
    cache: None = None

    def prepare(self, item: Item) -> Looked:
        """As `Photos` does, without bytes."""
        try:
            self.watch.enter(item)
        except ItemError as error:
            return Looked(item, error)
        return Looked(item)

    def picture(self, _: str) -> None:
        """There is none."""


def rows_of(item: Item, plan: Plan) -> list[Row]:
    """A success of each method."""
    target = Target(index=1, label="cat", probability=0.5)
    return [
        Row(item=item.id, index=item.index, method=method, rank=rank, status="succeeded", target=target)
        for method, rank in expected_rows(item, plan)
    ]


def photos_of(worker: Any, work: Any, _: Any) -> NoPhotos:
    """With the watch that a shard's photos have."""
    return NoPhotos(CrashGuard(worker.state, work.shard, worker.settings.max_attempts, work.opinion))


def explains(compute: Callable[[Item], None]) -> Callable[..., Iterator[Row]]:
    """What stands for `explain_items`."""

    def explained(group: Sequence[Looked], plan: Plan, _: NoModel) -> Iterator[Row]:
        for looked in group:
            if looked.error is None:
                compute(looked.item)
                yield from rows_of(looked.item, plan)
            else:
                yield from failed_rows(looked.item, plan, looked.error)

    return explained


def modules_with(name: str) -> list[ModuleType]:
    """Modules of heatmill that have imported something."""
    return [
        module for path, module in list(sys.modules.items()) if path.startswith("heatmill") and hasattr(module, name)
    ]


@contextmanager
def patched(steps: Callable[[], Steps], compute: Callable[[Item], None], here: SimpleNamespace) -> Iterator[None]:
    """Let the product run on the clock and the randomness of `steps`.

    Args:
        steps: Of the seed that runs.
        compute: Takes a device's time for an item, or fails as devices do.
        here: `control` and `planner` of the process that runs.
    """

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(steps().now, tz)

    threads = SimpleNamespace(
        Event=lambda: SteppedEvent(steps),
        Thread=lambda target, **_: SteppedThread(steps, target),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in modules_with("ThreadPoolExecutor"):
            patch.setattr(module, "ThreadPoolExecutor", Inline)
        for module in READS_THE_CLOCK:
            patch.setattr(module, "datetime", Clock)
        patch.setattr(claims, "threading", threads)
        patch.setattr(pipeline, "_photos", photos_of)
        patch.setattr(run, "explain_items", explains(compute))
        patch.setattr(tasks, "control_services", here.control)
        patch.setattr(tasks, "planner", here.planner)
        patch.setattr(tasks, "feed_once", lambda: feed(here.control()))
        patch.setattr(time, "time", lambda: steps().now)
        patch.setattr(time, "monotonic", lambda: steps().now)
        patch.setattr(time, "sleep", lambda seconds: steps().sleep(seconds))
        patch.setattr(os, "urandom", steps().random.randbytes)
        structlog.configure(processors=[logs_into(steps)])
        yield
    structlog.reset_defaults()


def logs_into(steps: Callable[[], Steps]) -> Callable[..., Any]:
    """Log lines are events of the trace."""

    def write(_: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        error = event.pop("exc_info", None)
        text = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        error = sys.exc_info()[1] if error is True else error
        steps().note(f"[{level}] {event.get('event')} {text}{f' {error!r}' if error else ''}")
        raise structlog.DropEvent

    return write
