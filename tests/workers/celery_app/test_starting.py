"""What a worker checks before it takes anything."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import EXPLAIN_QUEUE, Dispatcher, lists
from heatmill.errors import DeviceUnusable
from heatmill.local import services
from heatmill.local.environment import of_services
from heatmill.local.processes import running
from heatmill.settings import Settings
from heatmill.storage.keys import JobId
from heatmill_workers.celery_app.alive import TOUCH_SECONDS
from heatmill_workers.celery_app.starting import prove_device, start

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
END_SECONDS = 60


def environment(settings: Settings, **others: str) -> Mapping[str, str]:
    known = {"redis_url": settings.redis_url, "s3_endpoint": settings.s3_endpoint or "", **others}
    return of_services(known, {})


@no_gpu
def test_a_worker_whose_gpu_is_not_there_ends_with_a_line_and_takes_nothing(
    settings: Settings, state: RedisJobStore, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    dispatcher.explain(JobId("a", "0" * 32), 0, "normal")
    program = services.explain_worker(1, tmp_path, environment(settings, device="cuda"))
    done = subprocess.run(
        program.command, env=program.environment, cwd=tmp_path, capture_output=True, text=True, timeout=END_SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() + done.stderr.splitlines() if "cannot start" in line)
    assert "HEATMILL_DEVICE=cuda" in line
    assert "HEATMILL_DEVICE=cpu would use the processor" in line
    assert state.waiting(lists(EXPLAIN_QUEUE)) == 1


def test_a_worker_lives_though_redis_is_away(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    away = environment(settings, redis_url="redis://127.0.0.1:9/0", alive_file=str(file), device="cpu")
    program = services.explain_worker(1, tmp_path, away)
    with running(program, tmp_path / "log", file.exists, END_SECONDS) as process:
        # As if Redis had been away for hours.
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 2 * TOUCH_SECONDS
        while file.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not process.has_ended()


def test_a_cluster_ends_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis.Redis.info", lambda *_: {"cluster_enabled": 1, "redis_mode": "cluster"})
    with capture_logs() as logs, pytest.raises(SystemExit) as ended:
        start(Settings(), computes=False)
    assert ended.value.code == 1
    assert "Redis Cluster" in logs[0]["reason"]


@no_gpu
def test_a_gpu_that_is_present_and_unusable_is_a_clear_line_and_the_processor_is_used(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    with capture_logs() as logs:
        prove_device(None, tmp_path)
    (line,) = logs
    assert line["log_level"] == "warning"
    assert "the worker uses the processor" in line["reason"]


def test_without_a_gpu_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    prove_device(None, tmp_path)
    prove_device("cpu", tmp_path)


def test_a_proof_that_dies_is_told_by_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DeviceUnusable, match="status 1"):
        prove_device("cuda", tmp_path)


def test_a_driver_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(hangs))
    monkeypatch.setattr("heatmill_workers.celery_app.starting.DEVICE_SECONDS", 0.2)
    with pytest.raises(DeviceUnusable, match="did not answer"):
        prove_device("cuda", tmp_path)
