"""The folder that holds everything a stack knows: data, credentials, logs. One stack at a time."""

import fcntl
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from heatmill.local.errors import DataFolderInUse, LocalStackError
from heatmill.local.ports import free_ports, is_free
from heatmill.local.servers.seaweedfs import Credentials, ObjectStorePorts

# A stack that was killed needs a moment until its servers are dead.
LOCK_SECONDS = 1.0


class StackState(BaseModel):
    """What a restart needs to find its data again; the ports too, so that URLs stay the same where they can."""

    model_config = ConfigDict(frozen=True)

    redis_password: str
    redis_port: int
    credentials: Credentials
    object_store_ports: ObjectStorePorts


@dataclass(frozen=True)
class DataFolder:
    """A folder that is ours alone as long as the lock is open somewhere."""

    path: Path
    lock: int


@contextmanager
def data_folder(wanted: Path | None) -> Iterator[DataFolder]:
    """The folder; a temporary one, removed at the end, where none is wanted.

    Raises:
        DataFolderInUse: Another stack has it.
        LocalStackError: It cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix="heatmill-")) if wanted is None else wanted.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise LocalStackError(f"the data folder {folder} cannot be made: {error}") from error
    try:
        with (folder / "lock").open("a") as lock:
            _lock(lock.fileno(), folder)
            yield DataFolder(folder, lock.fileno())
    finally:
        if wanted is None:
            shutil.rmtree(folder, ignore_errors=True)


def remembered(folder: Path) -> StackState:
    """Credentials and ports of a folder, made up for a new one; ports that are taken by now are chosen anew.

    Raises:
        LocalStackError: The file that holds them is damaged.
    """
    file = folder / "stack.json"
    known = _read(file) if file.exists() else _made_up()
    changes: dict[str, object] = {}
    if not is_free(known.redis_port):
        changes["redis_port"] = free_ports(1)[0]
    if not known.object_store_ports.are_free:
        changes["object_store_ports"] = ObjectStorePorts.choose()
    current = known.model_copy(update=changes)
    draft = file.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(current.model_dump_json())
    draft.replace(file)
    return current


def _lock(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            # The kernel gives it back when the last process that has it open ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() > deadline:
                message = f"another heatmill runs on {folder}; choose another data folder, or stop it"
                raise DataFolderInUse(message) from error
            time.sleep(0.05)
        else:
            return


def _made_up() -> StackState:
    return StackState(
        redis_password=secrets.token_hex(16),
        redis_port=free_ports(1)[0],
        credentials=Credentials(secrets.token_hex(10), secrets.token_hex(20)),
        object_store_ports=ObjectStorePorts.choose(),
    )


def _read(file: Path) -> StackState:
    try:
        return StackState.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise LocalStackError(f"{file} holds the data's credentials and cannot be read: {error}") from error
