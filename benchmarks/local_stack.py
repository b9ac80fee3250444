"""The real parts on loopback, each a process whose memory can be read: Redis, SeaweedFS, API, workers."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx

from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.task_queue import CONTROL_QUEUE
from heatmill.local import services
from heatmill.local.layout import StackOptions
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.local.processes import Process, Program, running
from heatmill.local.stack import Stack
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage, open_storage

TENANTS = ("flood", "small")
START_SECONDS = 60.0
MIB = 1024


@dataclass(frozen=True)
class LocalStack:
    """What runs, and how to reach it.

    Args:
        folder: For logs, and to run in.
        environment: Of every process.
    """

    folder: Path
    environment: Mapping[str, str]
    settings: Settings
    storage: S3Storage
    state: RedisJobStore
    sources: S3Storage

    @contextmanager
    def api(self) -> Iterator[dict[str, httpx.Client]]:
        """The API under gunicorn: a caller for each tenant."""
        (port,) = free_ports(1)
        program = services.api(self.folder, port, self.environment)
        with running(program, self.folder / "api.log", lambda: services.api_answers(port), START_SECONDS):
            callers = {
                tenant: httpx.Client(
                    base_url=f"http://{LOOPBACK}:{port}/v1",
                    headers={"Authorization": f"Bearer {tenant}"},
                    timeout=120,
                    trust_env=False,
                )
                for tenant in TENANTS
            }
            yield callers
            for caller in callers.values():
                caller.close()

    @contextmanager
    def control_worker(self, **settings: object) -> Iterator[Process]:
        """The control worker, once it takes messages."""
        with self._worker(services.control_worker(self.folder, self._told(settings))) as process:
            name = f"heatmill-{CONTROL_QUEUE}"
            wait_until(lambda: any(client["name"] == name and "b" in client["flags"] for client in self._clients()))
            yield process

    @contextmanager
    def explain_worker(self, number: int) -> Iterator[Process]:
        """One that really explains, on one thread."""
        with self._worker(services.explain_worker(number, self.folder, self._told({"decode_threads": 1}))) as process:
            yield process

    def _told(self, settings: Mapping[str, object]) -> dict[str, str]:
        told = {f"HEATMILL_{name.upper()}": str(value) for name, value in settings.items()}
        return {**self.environment, "OMP_NUM_THREADS": "1", **told}

    @contextmanager
    def _worker(self, program: Program) -> Iterator[Process]:
        log = self.folder / f"{program.name}-{uuid4().hex[:6]}.log"
        with running(program, log, lambda: True, START_SECONDS) as process:
            yield process

    def _clients(self) -> list[dict[str, str]]:
        return list(self.state.client.client_list())


@contextmanager
def local_stack() -> Iterator[LocalStack]:
    """Redis and SeaweedFS; nothing is left of them."""
    options = StackOptions(data_dir=None, port=0, services=False)
    with tempfile.TemporaryDirectory() as folder, Stack(options) as stack:
        keys = Path(folder) / "keys.json"
        keys.write_text(json.dumps({hashlib.sha256(tenant.encode()).hexdigest(): tenant for tenant in TENANTS}))
        environment = {**stack.environment, "HEATMILL_API_KEYS_FILE": str(keys)}
        # The store's credentials reach boto3 by the environment alone.
        os.environ.update(environment)  # noqa: TID251 - as a shell would
        settings = Settings()
        storage, state = open_storage(settings), open_state(settings.redis_url)
        yield LocalStack(Path(folder), environment, settings, storage, state, storage.of_bucket("sources"))
        state.client.close()


def peak_mib(pid: int) -> float:
    """The most memory that a process has had since it was started, or since `forget_peak`."""
    return _status(pid, "VmHWM")


def held_mib(pid: int) -> float:
    """The memory of a process now."""
    return _status(pid, "VmRSS")


def forget_peak(pid: int) -> None:
    """Let `peak_mib` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def wait_until(true: Callable[[], bool], seconds: float = START_SECONDS, pause_seconds: float = 0.02) -> float:
    """Wait for something; how long it took."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(pause_seconds)
    return time.monotonic() - started


def _status(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / MIB for line in lines if line.startswith(field))
