"""Faults on a running stack, by schedule; and whoever ends is started again, as a supervisor would."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from heatmill.coordination.task_queue import EXPLAIN, Dispatcher
from heatmill.errors import QueueUnavailable
from heatmill.local import services
from heatmill.storage.keys import JobId
from tests.faults import s3_proxy
from tests.faults.chaos.log import Broken, Log
from tests.faults.chaos.schedule import Fault
from tests.faults.s3_proxy import Behaviour
from tests.faults.service import EXPLAIN as WORKERS
from tests.faults.service import Service

TICK_SECONDS = 0.05
STORE: dict[str, Callable[[], Behaviour]] = {
    "503": lambda: s3_proxy.slow_down,
    "reset": lambda: s3_proxy.reset,
    "lose answers": s3_proxy.answers_lost,
    "slow": lambda: s3_proxy.slow,
}
SHARDS_ASKED_FOR = 12


@dataclass
class Breaker:
    """Breaks a stack, and keeps up what is not meant to be down.

    Args:
        service: The stack.
        faults: In order of their beginnings.
        log: Gets each fault when it is over.
    """

    service: Service
    faults: tuple[Fault, ...]
    log: Log
    _down: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Break by the schedule until the last fault is over.

        In the thread that lives on: on Linux a process dies with the thread that started it.
        """
        started, wall = time.monotonic(), time.time()
        waiting, active = list(self.faults), list[tuple[Fault, str]]()
        while waiting or active:
            now = time.monotonic() - started
            for fault, detail in [each for each in active if each[0].ends <= now]:
                self._end(fault)
                active.remove((fault, detail))
                self._note(fault, wall, detail)
            if waiting and waiting[0].begins <= now:
                fault = waiting.pop(0)
                active.append((fault, self._begin(fault)))
            self.keep_up_for(TICK_SECONDS)

    def keep_up_for(self, seconds: float) -> None:
        """Start what ends, for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._keep_up()
            time.sleep(TICK_SECONDS)

    def _note(self, fault: Fault, wall: float, detail: str) -> None:
        # The schedule's beginning and the clock's end: a busy machine is late, never early.
        begun = wall + fault.begins
        self.log.write(Broken(begun=begun, ended=time.time(), place=fault.place, kind=fault.kind, detail=detail))

    def _begin(self, fault: Fault) -> str:
        """Break; how it went, where that is not plain."""
        if fault.place == "store":
            self._break_store(fault.kind)
        elif fault.place == "redis":
            return self._break_redis(fault)
        elif fault.place == "messages":
            return self._send_messages(fault)
        else:
            self._break_process(fault)
        return ""

    def _end(self, fault: Fault) -> None:
        if fault.place == "store":
            self.service.proxy.heal()
        elif fault.kind == "freeze" and fault.place in self.service.stack.processes:
            self.service.stack.signal(fault.place, signal.SIGCONT)
        self._down.discard(fault.place)

    def _break_store(self, kind: str) -> None:
        if kind == "down":
            self.service.proxy.down()
        else:
            self.service.proxy.behaviour = STORE[kind]()

    def _break_process(self, fault: Fault) -> None:
        stack, name = self.service.stack, fault.place
        self._down.add(name)
        if fault.kind == "freeze":
            stack.signal(name, signal.SIGSTOP)
        elif fault.kind == "kill group":
            stack.kill(name)
        elif fault.kind == "kill parent":
            os.kill(stack.processes[name].pid, signal.SIGKILL)
        elif (child := stack.child(name)) is not None:
            os.kill(child, signal.SIGKILL)

    def _break_redis(self, fault: Fault) -> str:
        stack = self.service.stack
        if fault.kind.startswith("kill"):
            self._down.add("redis")
            stack.kill_redis(forget=fault.kind == "kill and forget")
            return ""
        commands: dict[str, list[tuple[str, ...]]] = {
            "flush": [("FLUSHALL",)],
            "cut connections": [("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "KILL", "TYPE", "pubsub")],
            "pause": [("CLIENT", "PAUSE", str(round((fault.ends - fault.begins) * 1000)))],
        }
        try:
            with closing(redis.Redis.from_url(stack.redis_url)) as client:
                for command in commands[fault.kind]:
                    client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            return str(error)
        return ""

    def _send_messages(self, fault: Fault) -> str:
        bell = Dispatcher(Celery("heatmill", broker=self.service.stack.redis_url, set_as_current=False))
        try:
            if fault.kind == "garbage":
                return self._send_garbage(bell, fault.choice)
            return self._repeat_messages(bell, fault.choice)
        except (QueueUnavailable, OperationalError, redis.RedisError) as error:
            return str(error)
        finally:
            bell.app.close()

    def _repeat_messages(self, bell: Dispatcher, choice: float) -> str:
        """What was sent for open jobs comes again: for done shards, for those at work, and for a job nobody knows."""
        state = self.service.state
        known = [(job, state.progress(job)) for job in state.open_jobs()]
        shards = [(job, number) for job, progress in known if progress for number in range(progress.shards or 0)]
        again = shards[int(choice * len(shards)) :][:SHARDS_ASKED_FOR]
        for job, number in [*again, (JobId("a", f"{int(choice * 16**8):032x}"), 0)]:
            bell.explain(job, number, "normal")
        for job, _ in known:
            bell.plan(job)
        bell.feed()
        return f"{len(again)} shards of {len(known)} jobs"

    def _send_garbage(self, bell: Dispatcher, choice: float) -> str:
        if choice < 0.3:
            bell.app.send_task(EXPLAIN, args=["a", 7, "x", None], queue="explain", priority=0)
            return "wrong arguments"
        if choice < 0.6:
            bell.app.send_task("heatmill.unknown", args=[], queue="control", priority=0)
            return "unknown task"
        self.service.state.client.rpush("explain" if choice < 0.8 else "control", "\x00\xff nonsense")
        return "no JSON"

    def _keep_up(self) -> None:
        """Start what has ended; nothing waits here for anything that may be broken."""
        stack = self.service.stack
        starts: dict[str, Callable[[], None]] = {
            "redis": stack.start_redis,
            "control": stack.start_control,
            "api": lambda: stack._start(services.api(stack._run_folder, stack.ports[0], stack.environment())),
            **{name: partial(stack.start_explain, number) for number, name in enumerate(WORKERS, 1)},
        }
        for name in starts.keys() - self._down:
            process = stack.processes.get(name)
            if process is None or process.has_ended():
                starts[name]()
