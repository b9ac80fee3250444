"""Children: they die with their parent, take their own children along, and show their log when they fail."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heatmill.local import reaper
from heatmill.local.environment import inherited
from heatmill.local.errors import DidNotStart
from heatmill.local.processes import MAX_LOG_BYTES, Process, Program, fresh_log, running
from tests.services.folder_processes import eventually, needs_linux, running_in

SLEEP = "import time; time.sleep(100)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(100)"
WITH_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).wait()"


def program(folder: Path, code: str) -> Program:
    return Program("part", (sys.executable, "-c", code), folder, inherited())


def start(folder: Path, code: str) -> Process:
    return Process(program(folder, code), folder / "log")


def test_a_process_stops_when_it_is_asked(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEP)
    assert not process.has_ended()
    assert process.stop(10) == -signal.SIGTERM
    assert process.has_ended()
    assert process.stop(10) == -signal.SIGTERM


def test_a_process_that_does_not_listen_is_killed_after_its_grace(tmp_path: Path) -> None:
    process = start(tmp_path, DEAF)
    assert eventually(lambda: "deaf" in process.tail())
    asked = time.monotonic()
    assert process.stop(0.2) == -signal.SIGKILL
    assert time.monotonic() - asked < 5


@needs_linux
def test_what_a_process_left_behind_ends_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, WITH_CHILD)
    assert eventually(lambda: len(running_in(tmp_path)) == 2)
    process.stop(10)
    assert eventually(lambda: running_in(tmp_path) == {})


@needs_linux
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from heatmill.local.processes import Process, Program
folder = Path({str(tmp_path)!r})
Process(Program("part", ({sys.executable!r}, "-c", {SLEEP!r}), folder, {{}}), folder / "log")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert eventually(lambda: running_in(tmp_path) == {})


@needs_linux
def test_the_reaper_kills_groups_whose_stack_was_killed_and_no_others(tmp_path: Path) -> None:
    kept, left, ended = (start(tmp_path, WITH_CHILD) for _ in range(3))
    assert eventually(lambda: len(running_in(tmp_path)) == 6)
    reaper.main([f"+{left.pid}", f"+{ended.pid}", f"-{ended.pid}", f"+{2**22 - 1}"])
    assert eventually(left.has_ended)
    assert not kept.has_ended()
    assert not ended.has_ended()
    assert left.end(0) == -signal.SIGKILL
    for process in (kept, ended):
        process.end(0)
    assert eventually(lambda: running_in(tmp_path) == {})


def test_a_program_that_is_not_there_is_named_in_the_log(tmp_path: Path) -> None:
    process = Process(Program("part", ("/no/such/program",), tmp_path, {}), tmp_path / "log")
    assert process.end(10) == 1
    assert "/no/such/program" in process.tail()


def test_a_process_that_ends_at_once_shows_the_end_of_its_log(tmp_path: Path) -> None:
    failing = program(tmp_path, "print('first'); raise SystemExit('no disk')")
    with (
        pytest.raises(DidNotStart, match=r"part stopped while it was starting(.|\n)*first\nno disk"),
        running(failing, tmp_path / "log", lambda: False, 10),
    ):
        pytest.fail("it never answered")


def test_a_process_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(DidNotStart, match="part did not answer within 0 s"),
        running(program(tmp_path, SLEEP), tmp_path / "log", lambda: False, 0.1),
    ):
        pytest.fail("it never answered")
    assert running_in(tmp_path) == {}


def test_a_log_goes_on_until_it_is_long(tmp_path: Path) -> None:
    log = fresh_log(tmp_path, "part")
    log.write_bytes(b"short")
    assert fresh_log(tmp_path, "part").read_bytes() == b"short"
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    assert not fresh_log(tmp_path, "part").exists()
    assert (tmp_path / "part.old.log").exists()
