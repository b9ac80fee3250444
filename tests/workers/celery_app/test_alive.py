"""The file that says that a worker lives, and the command that reads it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from heatmill.local.environment import inherited
from heatmill_workers.celery_app.alive import TOUCH_SECONDS, keep_touched

WORKER_ALIVE = Path(__file__).parents[3] / "docker" / "worker-alive"


def is_alive(file: Path) -> bool:
    """What the probe of the images says."""
    done = subprocess.run([WORKER_ALIVE], env={**inherited(), "HEATMILL_ALIVE_FILE": str(file)}, check=False)
    return done.returncode == 0


def test_a_file_is_touched_at_once_and_again(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    stopped = keep_touched(file, 0.01)
    try:
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 5
        while not is_alive(file):
            assert time.monotonic() < deadline
    finally:
        stopped.set()


@pytest.mark.parametrize(("age", "lives"), [(0, True), (50, True), (70, False), (1e6, False)])
def test_a_worker_lives_while_the_file_is_young(age: float, lives: bool, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    file.touch()
    os.utime(file, (time.time() - age,) * 2)
    assert is_alive(file) is lives


def test_a_worker_without_a_file_does_not_live(tmp_path: Path) -> None:
    assert not is_alive(tmp_path / "none")


def test_a_touch_may_be_missed_several_times() -> None:
    assert 3 * TOUCH_SECONDS < 60


def test_the_probe_starts_no_python_and_costs_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "alive").touch()
    before = os.times()
    assert is_alive(tmp_path / "alive")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 0.1
