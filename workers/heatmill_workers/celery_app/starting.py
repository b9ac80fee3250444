"""What a worker checks before it takes anything: it ends where it can do no work, with a line that says why."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination.redis_address import check_server
from heatmill.errors import DeviceUnusable, MachineError
from heatmill.settings import Settings
from heatmill_workers.celery_app.alive import keep_touched

# A driver that hangs does not answer at all; CUDA's first use of a device takes some seconds.
DEVICE_SECONDS = 120.0
GPUS = ("nvidia[0-9]*", "dxg", "kfd")

log = structlog.get_logger()


def start(settings: Settings, *, computes: bool, refused: Callable[[str], None] = lambda reason: None) -> None:
    """Check Redis, the files of models and methods and, where the worker `computes`, its device; then show its life.

    Args:
        settings: Of the worker.
        computes: Whether it explains.
        refused: Called with the reason, where the worker can do no work.

    Raises:
        SystemExit: The worker can do no work here; the reason is logged.
    """
    try:
        check_server(settings.redis_url)
        _check_files(settings)
        if computes:
            prove_device(settings.device)
    except MachineError as error:
        log.critical("the worker cannot start", reason=str(error))
        refused(str(error))
        raise SystemExit(1) from error
    if settings.alive_file is not None:
        keep_touched(settings.alive_file)


def prove_device(asked: str | None, devices: Path = Path("/dev")) -> None:
    """Compute something on the device in a process of its own: this one stays free of torch, and is never forked.

    Args:
        asked: `HEATMILL_DEVICE`.
        devices: Where Linux shows what the machine has.

    Raises:
        DeviceUnusable: It was asked for and is not there; or it is there and computes nothing.
    """
    if asked == "cpu" or (asked is None and not any(map(list, map(devices.glob, GPUS)))):
        return
    command = [sys.executable, "-m", "heatmill_workers.models.device", *([asked] if asked else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEVICE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DeviceUnusable(
            f"the device {asked or 'of this machine'} did not answer in {DEVICE_SECONDS:.0f} s"
        ) from error
    told = done.stdout.strip()
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise DeviceUnusable(told or f"the proof of the device ended with status {done.returncode}: {last}")
    if told:
        log.warning("a GPU is present and not used", reason=told)


def _check_files(settings: Settings) -> None:
    try:
        load_catalogue(settings.models_file, settings.methods_file)
    except (OSError, ValueError) as error:
        raise MachineError(str(error)) from error
