"""The store and Redis in memory. Before and after each call others may run, and faults strike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, TypeVar

import fakeredis
import redis
from botocore.exceptions import ClientError, EndpointConnectionError

from heatmill.storage.bucket import S3Storage
from tests.simulation.stepped import Killed, Process, Steps

T = TypeVar("T")
FROZEN_SECONDS = (1.0, 40.0)
STEP_SECONDS = (0.0005, 0.02)
# Between the last look at the claim and the record is where standing still is worst.
COMMIT_IS_TORN = 30


@dataclass
class Faults:
    """What may strike, with its chance at each call. None of it strikes an immortal process."""

    kill: float = 0.0
    freeze: float = 0.0
    store_before: float = 0.0
    store_after: float = 0.0
    redis_before: float = 0.0
    redis_after: float = 0.0
    lost: float = 0.0
    twice: float = 0.0
    delayed: float = 0.0
    reordered: float = 0.0
    away: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, chances: Mapping[str, float]) -> "Faults":
        """These, and nothing is away."""
        faults = cls()
        for name, chance in chances.items():
            setattr(faults, name, chance)
        return faults


class Calls:
    """Where all calls pass.

    Attributes:
        faults: Those of now.
        on_death: Called when a process dies.
        on_violence: Called when one stands still, or does not reach Redis.
    """

    def __init__(self) -> None:
        self.steps = Steps(0)
        self.faults = Faults()
        self.on_death: Callable[[Process], None] = lambda _: None
        self.on_violence: Callable[[Process], None] = lambda _: None

    def __call__(self, to: str, what: str, run: Callable[[], T], unavailable: Callable[[], Exception]) -> T:
        """Call something, as far as the faults allow."""
        if self.steps.current is None:
            return run()
        self._pause(COMMIT_IS_TORN if what.startswith("put ") and "/results/" in what else 1)
        if to in self.faults.away or self._strikes(f"{to}_before"):
            self.steps.note(f"{what}: fails before")
            raise unavailable()
        answer = run()
        self.steps.note(what)
        if self._strikes(f"{to}_after"):
            self.steps.note(f"{what}: fails after")
            raise unavailable()
        if self._strikes("kill"):
            self.die()
        return answer

    def die(self) -> None:
        """End the process that runs."""
        assert self.steps.current is not None
        process = self.steps.current.process
        self.steps.note("KILLED")
        process.alive = False
        self.on_death(process)
        raise Killed

    def note_violence(self) -> None:
        """The process that runs suffers."""
        if self.steps.current is not None:
            self.on_violence(self.steps.current.process)

    def _pause(self, weight: int) -> None:
        assert self.steps.current is not None
        process = self.steps.current.process
        if not process.alive:
            raise Killed
        if self._strikes("kill"):
            self.die()
        if self._strikes("freeze", weight):
            process.frozen_until = self.steps.now + self.steps.random.uniform(*FROZEN_SECONDS)
            self.on_violence(process)
            self.steps.note(f"FROZEN for {process.frozen_until - self.steps.now:.1f} s")
        self.steps.sleep(self.steps.random.uniform(*STEP_SECONDS))

    def _strikes(self, fault: str, weight: int = 1) -> bool:
        chance = getattr(self.faults, fault)
        assert self.steps.current is not None
        return chance > 0 and not self.steps.current.process.immortal and self.steps.random.random() < chance * weight


class SteppedRedis(fakeredis.FakeStrictRedis):
    """A Redis whose run id changes when it is wiped."""

    calls: Calls
    run_id = "0"
    scripts: Mapping[str, str] = {}

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Any command."""
        command: Callable[..., Any] = super().execute_command
        if args[0] == "INFO":
            return self._passed("INFO", lambda: {"run_id": self.run_id})
        name = f"{args[0]} {self.scripts.get(args[1], args[1])}" if len(args) > 1 else str(args[0])
        return self._passed(name, lambda: command(*args, **options))

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Commands that are sent together."""
        together: Any = super().pipeline(*args, **options)
        execute = together.execute

        def send() -> Any:
            """All of them; a second time too."""
            together.command_stack = list(commands)
            return execute()

        def passed() -> Any:
            commands[:] = together.command_stack
            return self._passed("pipeline", send)

        commands: list[Any] = []
        together.execute = passed
        return together

    def _passed(self, what: str, run: Callable[[], Any]) -> Any:
        """As `open_client` has it: what is not answered is sent a second time."""
        try:
            return self._called(what, run)
        except redis.ConnectionError:
            try:
                return self._called(f"{what} again", run)
            except redis.ConnectionError:
                self.calls.note_violence()
                raise

    def _called(self, what: str, run: Callable[[], Any]) -> Any:
        return self.calls("redis", what, run, lambda: redis.ConnectionError("injected"))


class MemoryS3:
    """What heatmill calls of a boto3 client, for one bucket.

    Attributes:
        broken: Write-once records that were written again, by key.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.broken: list[str] = []
        self.meta = None

    def get_object(self, *, Bucket: str, Key: str, Range: str | None = None) -> dict[str, Any]:  # noqa: N803
        def read() -> dict[str, Any]:
            body = self._found(Key, "GetObject")
            if Range is not None:
                first, last = Range.removeprefix("bytes=").split("-")
                if int(first) >= len(body):
                    raise refusal("InvalidRange", 416)
                body = body[int(first) : int(last) + 1]
            return {"Body": Body(body)}

        return self._passed(f"get {Key}", read)

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        return self._passed(f"head {Key}", lambda: {"ContentLength": len(self._found(Key, "HeadObject"))})

    def put_object(self, *, Bucket: str, Key: str, Body: Any, IfNoneMatch: str = "", **_: Any) -> None:  # noqa: N803
        def write() -> None:
            if IfNoneMatch and Key in self.objects:
                raise refusal("PreconditionFailed", 412)
            body = Body if isinstance(Body, bytes) else Body.read()
            if "/results/" in Key and Key in self.objects:
                self.broken.append(f"{Key} was written again")
            self.objects[Key] = (body, datetime.fromtimestamp(int(self.calls.steps.now), UTC))

        self._passed(f"put {Key}", write)

    def delete_object(self, *, Bucket: str, Key: str) -> None:  # noqa: N803
        self._passed(f"delete {Key}", lambda: self.objects.pop(Key, None))

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        for each in Delete["Objects"]:
            self.delete_object(Bucket=Bucket, Key=each["Key"])
        return {}

    def get_paginator(self, _: str) -> "MemoryS3":
        return self

    def paginate(self, *, Bucket: str, Prefix: str, StartAfter: str = "", **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803
        def read() -> dict[str, Any]:
            found = sorted(key for key in self.objects if key.startswith(Prefix) and key > StartAfter)
            entry = [
                {"Key": key, "Size": len(self.objects[key][0]), "LastModified": self.objects[key][1]} for key in found
            ]
            return {"Contents": entry}

        yield self._passed(f"list {Prefix}", read)

    def _found(self, key: str, operation: str) -> bytes:
        if key not in self.objects:
            raise refusal("NoSuchKey", 404)
        return self.objects[key][0]

    def _passed(self, what: str, run: Callable[[], T]) -> T:
        return self.calls("store", what, run, lambda: EndpointConnectionError(endpoint_url="injected"))


class Body(BytesIO):
    """What is read of an object."""

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        """It, by parts."""
        while chunk := self.read(size):
            yield chunk


class NoFastPath:
    """All calls go to the client."""

    def get(self, *_: Any, **__: Any) -> None:
        """Ask the client."""

    put = size = get


def memory_storage(client: MemoryS3) -> S3Storage:
    """The real `S3Storage` over it."""
    storage = S3Storage(client, "simulated")  # type: ignore[arg-type]
    storage.__dict__["_quick"] = NoFastPath()
    storage.__dict__["has_conditional_writes"] = True
    return storage


def refusal(code: str, status: int) -> ClientError:
    """A refusal of the store."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "call")  # type: ignore[typeddict-item]
