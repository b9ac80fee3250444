"""SIGTERM while a role starts: as process 1 of a container it has no default action, and must not be lost."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import CONTROL_QUEUE, EXPLAIN_QUEUE, Dispatcher, lists
from heatmill.local import services
from heatmill.local.environment import inherited, of_services
from heatmill.local.ports import free_ports
from heatmill.local.processes import Program
from heatmill.settings import Settings
from heatmill.storage.keys import JobId

ROLES = ("api", "control", "explain")
PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
START_SECONDS = 10.0
END_SECONDS = 10.0

T = TypeVar("T")


def role(name: str, settings: Settings, folder: Path) -> Program:
    """As the images start it."""
    environment = of_services({"redis_url": settings.redis_url, "s3_endpoint": settings.s3_endpoint}, {})
    programs: dict[str, Callable[[], Program]] = {
        "api": lambda: services.api(folder, free_ports(1)[0], environment),
        "control": lambda: services.control_worker(folder, environment),
        "explain": lambda: services.explain_worker(1, folder, environment),
    }
    return programs[name]()


@contextmanager
def process_1(program: Program) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process that has the program as process 1 of its own name space, and the program's number outside."""
    can = shutil.which("unshare") and subprocess.run([*PROCESS_1, "true"], check=False, capture_output=True)
    if not can or can.returncode:
        if "CI" in inherited():
            pytest.fail("this machine makes no name spaces")
        pytest.skip("this machine makes no name spaces")
    command = (*PROCESS_1, *program.command)
    with subprocess.Popen(command, cwd=program.folder, env=program.environment, stderr=subprocess.DEVNULL) as outside:
        try:
            yield outside, wait_for(lambda: child_of(outside.pid))
        finally:
            outside.kill()


def child_of(pid: int) -> int | None:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


def listens(pid: int) -> bool:
    """Whether the program has a handler for SIGTERM."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_for(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + START_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found


@pytest.mark.parametrize("name", ROLES)
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_stop_that_comes_before_the_role_has_started_ends_it_and_nothing_is_taken(
    name: str, pause: float, settings: Settings, state: RedisJobStore, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    dispatcher.explain(JobId("a", "0" * 32), 0, "normal")
    dispatcher.feed()
    with process_1(role(name, settings, tmp_path)) as (outside, inside):
        started = time.monotonic()
        wait_for(lambda: listens(inside))
        # Python itself needs some hundredths of a second; Celery's handler comes after a second and more.
        assert time.monotonic() - started < 0.7
        time.sleep(pause)
        os.kill(inside, signal.SIGTERM)
        assert outside.wait(END_SECONDS) == 0
    assert state.waiting(lists(EXPLAIN_QUEUE)) == state.waiting(lists(CONTROL_QUEUE)) == 1


def test_a_module_that_runs_stoppable_gets_its_arguments_and_its_exit_status_counts() -> None:
    program = (*services.STOPPABLE, "json.tool", "--no-such-option")
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
    nothing = subprocess.run(services.STOPPABLE, capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert "MODULE" in nothing.stderr
