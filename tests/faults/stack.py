"""The whole service as real processes that can be killed one by one, with settings under which it heals in seconds."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from heatmill.local import services
from heatmill.local.environment import inherited, of_services
from heatmill.local.ports import free_ports
from heatmill.local.processes import Process, Program
from heatmill.local.servers.redis import redis_answers, redis_server, redis_url
from heatmill.local.servers.seaweedfs import Credentials, endpoint
from tests.faults.classifier import CLASSES, SIDE
from tests.faults.s3_proxy import S3Proxy

ROOT = Path(__file__).parents[2]
KEYS = {"key-of-a": "a", "key-of-b": "b"}
MODEL = "obedient"
MODELS = f"""\
[[models]]
name = "{MODEL}"
loader = "python"
architecture = "tests.faults.classifier:build"
labels = {json.dumps(CLASSES)}
preprocessing = {{ resize = {SIDE}, crop = {SIDE}, mean = [0, 0, 0], std = [1, 1, 1] }}
"""
# Seconds instead of minutes; the product's own values are in heatmill.settings.
SHORT = {
    "claim_seconds": "3",
    "timer_seconds": "0.5",
    "queue_patience_seconds": "4",
    "consumer_patience_seconds": "12",
    # Four items of the method saliency, at the pace of 0.03 s a pass that is assumed until a worker has measured it.
    "shard_seconds": "0.3",
    "window_shards": "8",
}
START_SECONDS = 60.0


@dataclass
class Stack:
    """What runs.

    Args:
        folder: Of its own.
        credentials: Of the object store.
        bucket: Exists.
        proxy: In front of the object store; runs.
    """

    folder: Path
    credentials: Credentials
    bucket: str
    proxy: S3Proxy
    processes: dict[str, Process] = field(default_factory=dict)
    ports: list[int] = field(default_factory=lambda: free_ports(2))

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def redis_url(self) -> str:
        """Of Redis."""
        return redis_url(self.ports[1], "secret")

    def environment(self, **settings: str) -> Mapping[str, str]:
        """Of API and workers."""
        known = {
            **SHORT,
            "redis_url": self.redis_url,
            "s3_endpoint": endpoint(self.proxy.port),
            "bucket": self.bucket,
            "models_file": str(self._file("models.toml", MODELS)),
            "api_keys_file": str(self._file("keys.json", json.dumps(_hashed(KEYS)))),
            "device": "cpu",
            **settings,
        }
        variables = of_services(known, self.credentials.environment)
        path = os.pathsep.join(filter(None, (str(ROOT), variables.get("PYTHONPATH"))))
        return {**variables, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def start_redis(self) -> None:
        """Start it, or start it again with what it had on disk, and wait until it answers."""
        self._start(redis_server(self.folder / "redis", self.ports[1], "secret", inherited()))
        wait_until(lambda: redis_answers(self.redis_url), START_SECONDS, "Redis answers")

    def kill_redis(self, *, forget: bool) -> None:
        """Kill it; one that forgets has no persistence."""
        self.kill("redis")
        if forget:
            for entry in (self.folder / "redis").iterdir():
                if entry.name != "redis.conf":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def start_api(self) -> None:
        """Start it, and wait until it is ready."""
        self._start(services.api(self._run_folder, self.ports[0], self.environment()))
        wait_until(lambda: services.api_answers(self.ports[0]), START_SECONDS, "the API is ready")

    def start_control(self) -> None:
        """Start the control worker; it is at work some seconds later."""
        self._start(services.control_worker(self._run_folder, self.environment()))

    def start_explain(self, number: int, module: str = "heatmill_workers.celery_app.apps", **settings: str) -> None:
        """Start an explain worker; it is at work some seconds later."""
        program = services.explain_worker(number, self._run_folder, self.environment(**settings))
        command = tuple(part.replace("heatmill_workers.celery_app.apps", module) for part in program.command)
        self._start(replace(program, command=command))

    def supervise(self) -> None:
        """Start what is not running, and let go on what is frozen: the stack as every test finds it."""
        starts: dict[str, Callable[[], None]] = {
            "redis": self.start_redis,
            "control": self.start_control,
            "explain-1": lambda: self.start_explain(1),
            "explain-2": lambda: self.start_explain(2),
            "api": self.start_api,
        }
        for name, start in starts.items():
            if name not in self.processes or self.processes[name].has_ended():
                start()
            self.signal(name, signal.SIGCONT)

    def kill(self, *names: str) -> None:
        """Kill whole groups with SIGKILL, and wait until they are dead."""
        for name in names:
            process = self.processes.pop(name, None)
            if process is not None:
                process.end(0)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to all processes of a group."""
        os.killpg(self.processes[name].pid, number)

    def group(self, name: str) -> list[int]:
        """Process ids of a part: its main process first, then those that it started."""
        main = self.processes[name].pid
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getpgid(int(entry.name)) == main:
                    found.append(int(entry.name))
        return sorted(found)

    def child(self, name: str) -> int | None:
        """The process of an explain worker that holds the model, while there is one."""
        return next((pid for pid in self.group(name) if b"--billiard-fork" in _command(pid)), None)

    def stop(self) -> None:
        """Kill everything."""
        self.kill(*reversed(self.processes))

    @property
    def _run_folder(self) -> Path:
        folder = self.folder / "run"
        folder.mkdir(exist_ok=True)
        return folder

    def _start(self, program: Program) -> None:
        self.kill(program.name)
        self.processes[program.name] = Process(program, self.folder / f"{program.name}.log")

    def _file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for something; the seconds that it took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.03)
    return time.monotonic() - started


def _hashed(keys: Mapping[str, str]) -> dict[str, str]:
    return {hashlib.sha256(key.encode()).hexdigest(): tenant for key, tenant in keys.items()}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
