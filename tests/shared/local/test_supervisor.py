"""Parts come up in order, stay up, and go down in the opposite order."""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heatmill.local.environment import inherited
from heatmill.local.processes import Program
from heatmill.local.reaper import Reaper
from heatmill.local.supervisor import Part, Supervisor
from tests.services.folder_processes import eventually, needs_linux, running_in

UNTIL_ASKED = """
import signal, sys, time
def stop(*_):
    with open("order", "a") as order:
        order.write(sys.argv[1] + " ")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
with open("up " + sys.argv[1], "w"):
    time.sleep(100)
"""
FAILING = "with open('starts', 'a') as starts: starts.write('x')"


class Bench:
    """A supervisor with a thread of its own, as the stack has one."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.stopping = threading.Event()
        self.force = threading.Event()
        self.supervisor = Supervisor(folder, Reaper(folder, lock), self.stopping.is_set, self.said.append)

    def part(self, name: str, code: str = UNTIL_ASKED, grace_seconds: float = 10) -> Part:
        program = Program(name, (sys.executable, "-c", code, name), self.folder, inherited())
        return Part(program, grace_seconds, (self.folder / f"up {name}").exists)

    def keep_up_for(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.stopping.set)
        timer.start()
        self.supervisor.supervise()
        timer.join()


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    with tempfile.TemporaryFile() as lock:
        made = Bench(folder, lock.fileno())
        try:
            yield made
        finally:
            made.supervisor.shut_down(made.force)


def test_tiers_go_down_last_first(tmp_path: Path) -> None:
    with bench(tmp_path) as made:
        made.supervisor.start([made.part("servers")])
        made.supervisor.start([made.part("api")])
        made.supervisor.start([made.part("worker")])
        made.supervisor.wait_for_answers(20)
    assert (tmp_path / "order").read_text() == "worker api servers "
    assert eventually(lambda: running_in(tmp_path) == {})


def test_what_keeps_ending_is_started_again_less_and_less_often(tmp_path: Path) -> None:
    with bench(tmp_path) as made:
        made.supervisor.start([made.part("part", FAILING)])
        made.keep_up_for(1.5)
    starts = len((tmp_path / "starts").read_text())
    assert 2 <= starts <= 4
    assert all(line.startswith("part ended (exit status 0) and is started again") for line in made.said)


def test_stopping_while_parts_start_starts_no_more(tmp_path: Path) -> None:
    with bench(tmp_path) as made:
        made.stopping.set()
        made.supervisor.start([made.part("part")])
        made.supervisor.wait_for_answers(20)
        assert not (tmp_path / "part.log").exists()


@needs_linux
def test_whoever_hurries_saves_the_grace(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); open('up deaf', 'w').close(); time.sleep(100)"
    with bench(tmp_path) as made:
        made.supervisor.start([made.part("deaf", deaf, grace_seconds=60)])
        made.supervisor.wait_for_answers(20)
        made.force.set()
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert eventually(lambda: running_in(tmp_path) == {})
