"""The embedded stack: it finds its data again, and nothing of it outlives the process that runs it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import httpx
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from heatmill.local.errors import DataFolderInUse, DidNotStart
from heatmill.local.layout import StackOptions
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.local.servers.programs import object_store_program, redis_program
from heatmill.local.stack import Stack
from tests.services import stack_process
from tests.services.fixtures import service
from tests.services.folder_processes import eventually, listening_addresses, needs_linux, running_in

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

START_SECONDS = 60


@dataclass(frozen=True)
class Seen:
    """A running stack, the port it was asked for, and what it told the operator."""

    stack: Stack
    asked_port: int
    said: list[str]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Servers whose port is taken; for tests that only look."""
    (port,) = free_ports(1)
    said: list[str] = []
    options = servers(tmp_path_factory.mktemp("seen") / "data with a space", port)
    with closing(socket.create_server((LOOPBACK, port))), Stack(options, said.append) as stack:
        yield Seen(stack, port, said)


@pytest.fixture(autouse=True, scope="module")
def _programs() -> None:
    with service("Redis and SeaweedFS"):
        redis_program()
        object_store_program()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def servers(folder: Path | None, port: int = 0) -> StackOptions:
    return StackOptions(data_dir=folder, port=port, services=False)


@needs_linux
def test_the_servers_listen_on_loopback_only(seen: Seen) -> None:
    children = {pid: command for pid, command in running_in(seen.stack.folder).items() if "reaper" not in command}
    assert len(children) == 2
    assert {host for host, _ in listening_addresses(list(children))} == {LOOPBACK}


def test_no_secret_is_on_a_command_line_or_in_a_file_for_others(seen: Seen) -> None:
    told = seen.stack.environment
    secrets = [told["AWS_SECRET_ACCESS_KEY"], told["HEATMILL_REDIS_URL"].split("@")[0].removeprefix("redis://:")]
    commands = " ".join(running_in(seen.stack.folder).values())
    assert all(len(secret) >= 20 and secret not in commands for secret in secrets)
    holders = [file for file in seen.stack.folder.rglob("*") if file.is_file() and contains(file, secrets)]
    assert holders
    assert all(file.stat().st_mode & 0o077 == 0 for file in holders)


def test_a_taken_port_is_replaced_and_the_operator_is_told(seen: Seen) -> None:
    assert seen.said == [f"port {seen.asked_port} is taken; using {httpx.URL(seen.stack.url).port}"]


def test_a_second_stack_on_the_same_folder_is_refused(seen: Seen) -> None:
    with pytest.raises(DataFolderInUse, match="another heatmill runs on"):
        Stack(servers(seen.stack.folder)).start()


def test_two_stacks_run_side_by_side_and_a_temporary_folder_is_removed(seen: Seen) -> None:
    with Stack(servers(None)) as other:
        remember(seen.stack, b"one")
        remember(other, b"other")
        assert (recall(seen.stack), recall(other)) == ((b"one", b"one"), (b"other", b"other"))
    assert not other.folder.exists()


def test_data_survive_a_stop_and_a_kill_and_other_ports(folder: Path) -> None:
    with Stack(servers(folder)) as stack:
        remember(stack, b"kept")
        first = stack.environment
    assert running_in(folder) == {}
    with started(folder, "servers", until="ready") as parent:
        kill(parent.pid)
        parent.wait()
    assert eventually(lambda: running_in(folder) == {})
    port = httpx.URL(first["HEATMILL_S3_ENDPOINT"]).port or 0
    with closing(socket.create_server((LOOPBACK, port))), Stack(servers(folder)) as stack:
        assert stack.environment["HEATMILL_S3_ENDPOINT"] != first["HEATMILL_S3_ENDPOINT"]
        assert recall(stack) == (b"kept", b"kept")


def test_a_server_that_cannot_start_shows_the_end_of_its_log(folder: Path) -> None:
    (folder / "redis").mkdir(parents=True)
    (folder / "redis" / "appendonly.aof").write_bytes(b"*this is no file of Redis\r\n" * 10)
    with pytest.raises(DidNotStart, match=r"redis stopped while it was starting(.|\n)*[Bb]ad file format"):
        Stack(servers(folder)).start()
    assert running_in(folder) == {}


@needs_linux
def test_a_killed_server_comes_back_with_its_data(folder: Path) -> None:
    said: list[str] = []
    with Stack(servers(folder), said.append) as stack:
        remember(stack, b"kept")
        time.sleep(1.1)  # Redis writes to disk once a second
        for pid in [pid for pid, command in running_in(folder).items() if "weed" in command or "redis" in command]:
            kill(pid)
        assert eventually(lambda: remembers(stack, b"kept"), START_SECONDS)
    assert {line.split(" (")[0] for line in said} == {"redis ended", "object-store ended"}
    assert running_in(folder) == {}


@needs_linux
@pytest.mark.parametrize("after_seconds", [0.0, 0.1, 0.5, 0.9])
def test_ctrl_c_at_any_moment_leaves_nothing(folder: Path, after_seconds: float) -> None:
    with started(folder, "servers", until="starting") as parent:
        time.sleep(after_seconds)
        parent.send_signal(signal.SIGINT)
        parent.wait(20)
    assert running_in(folder) == {}


@needs_linux
def test_an_impatient_second_ctrl_c_leaves_nothing(folder: Path) -> None:
    with started(folder, "servers", until="ready") as parent:
        for _ in range(3):
            parent.send_signal(signal.SIGINT)
            time.sleep(0.1)
        parent.wait(20)
    assert eventually(lambda: running_in(folder) == {})


@needs_linux
@pytest.mark.parametrize("extent", ["servers", pytest.param("services", marks=pytest.mark.faults)])
def test_ctrl_c_lets_the_servers_end_by_themselves(folder: Path, extent: str) -> None:
    with started(folder, extent, until="ready") as parent:
        parent.send_signal(signal.SIGINT)
        parent.wait(20)
    assert "ready to exit" in (folder / "logs" / "redis.log").read_text()
    assert running_in(folder) == {}


@needs_linux
@pytest.mark.parametrize(
    ("signals", "pause_seconds"),
    [
        ([signal.SIGINT], 0.0),
        ([signal.SIGTERM], 0.0),
        ([signal.SIGTERM, signal.SIGTERM], 0.0),
        ([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 0.001),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 0.1),
    ],
)
def test_a_temporary_folder_is_removed_whatever_signals_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: list[signal.Signals], pause_seconds: float
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started(stack_process.TEMPORARY, "servers", until="ready") as parent:
        assert list(tmp_path.glob("heatmill-*"))
        for number in signals:
            parent.send_signal(number)
            time.sleep(pause_seconds)
        parent.wait(20)
    assert list(tmp_path.glob("heatmill-*")) == []
    assert running_in(tmp_path) == {}


@pytest.mark.faults
def test_a_stack_starts_at_once_where_another_was_killed(folder: Path) -> None:
    with started(folder, "servers", until="ready") as parent:
        kill(parent.pid)
        with Stack(servers(folder)) as stack:
            remember(stack, b"kept")
            assert recall(stack) == (b"kept", b"kept")


@needs_linux
@pytest.mark.faults
def test_a_killed_worker_is_replaced_and_a_killed_parent_leaves_nothing(folder: Path) -> None:
    with started(folder, "services", until="ready") as parent:
        (worker,) = [
            pid for pid, command in running_in(folder).items() if "apps:explain" in command and is_child(pid, parent)
        ]
        kill(worker)
        assert parent.stdout is not None
        assert "explain-1 ended (killed by signal 9) and is started again" in parent.stdout.readline()
        assert eventually(
            lambda: len([1 for pid, command in running_in(folder).items() if "apps:explain" in command]) > 0
        )
        assert worker not in running_in(folder)
        kill(parent.pid)
        parent.wait()
        assert eventually(lambda: running_in(folder) == {}), running_in(folder)


@pytest.mark.faults
def test_the_whole_stack_answers_and_stops(folder: Path) -> None:
    with Stack(StackOptions(data_dir=folder, port=0)) as stack:
        assert httpx.get(f"{stack.url}/readyz", trust_env=False).json()["ready"]
    assert running_in(folder) == {}
    assert {log.name for log in (folder / "logs").iterdir()} == {
        "api.log",
        "control.log",
        "explain-1.log",
        "object-store.log",
        "redis.log",
    }


@contextmanager
def started(folder: Path | str, extent: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a stack, once it says this word."""
    command = [sys.executable, stack_process.__file__, str(folder), extent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert any(line.startswith(until) for line in parent.stdout)
            yield parent
        finally:
            parent.kill()


def is_child(pid: int, parent: subprocess.Popen[str]) -> bool:
    return f"\nPPid:\t{parent.pid}\n" in Path(f"/proc/{pid}/status").read_text()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def contains(file: Path, secrets: list[str]) -> bool:
    content = file.read_bytes()
    return any(secret.encode() in content for secret in secrets)


def remember(stack: Stack, value: bytes) -> None:
    with closing(s3(stack)) as client, redis.Redis.from_url(stack.environment["HEATMILL_REDIS_URL"]) as memory:
        client.put_object(Bucket="heatmill", Key="a/b", Body=value)
        memory.set("a", value)


def recall(stack: Stack) -> tuple[bytes, object]:
    with closing(s3(stack)) as client, redis.Redis.from_url(stack.environment["HEATMILL_REDIS_URL"]) as memory:
        return client.get_object(Bucket="heatmill", Key="a/b")["Body"].read(), memory.get("a")


def remembers(stack: Stack, value: bytes) -> bool:
    try:
        return recall(stack) == (value, value)
    except (redis.RedisError, BotoCoreError, ClientError):
        return False


def s3(stack: Stack) -> "S3Client":
    told = stack.environment
    session = boto3.session.Session(told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    return session.client(
        "s3", endpoint_url=told["HEATMILL_S3_ENDPOINT"], config=Config(retries={"total_max_attempts": 1})
    )
