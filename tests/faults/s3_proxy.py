"""A proxy in front of the object store that misbehaves on demand, request by request.

It forwards requests as they were signed, the Host header included: the store signs with whatever host it was told.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property

from heatmill.local.ports import LOOPBACK

REFUSAL = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(REFUSAL) + REFUSAL
)


@dataclass(frozen=True)
class Request:
    """One request, whole."""

    method: str
    path: str
    head: bytes
    body: bytes


Forward = Callable[[], Awaitable[bytes]]
"""Sends the request on and gives the store's whole answer."""
Behaviour = Callable[[Request, Forward], Awaitable[bytes]]
"""What becomes of a request: an answer, or `CamLayer`."""


class CamLayer(Exception):
    """The connection is reset instead of an answer."""


async def faithful(_: Request, forward: Forward) -> bytes:
    """No fault."""
    return await forward()


async def slow_down(_: Request, __: Forward) -> bytes:
    """The store asks for mercy."""
    return SLOW_DOWN


def refusing_writes(status: str, code: str, part: str = "") -> Behaviour:
    """The store reads and deletes, and takes nothing, or no object with this part in its key."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    answer = b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b"

    async def behave(request: Request, forward: Forward) -> bytes:
        if request.method == "PUT" and part in request.path:
            return answer % (status.encode(), len(body), body)
        return await forward()

    return behave


def full(part: str = "") -> Behaviour:
    """The store has no room, or none for objects with this part in their keys."""
    return refusing_writes("507 Insufficient Storage", "XMinioStorageFull", part)


def full_until_something_goes(part: str) -> Behaviour:
    """The store takes nothing until an object with this part in its key is deleted."""
    refuse = full()
    gone: list[str] = []

    async def behave(request: Request, forward: Forward) -> bytes:
        if request.method == "DELETE" and part in request.path:
            gone.append(request.path)
        if request.method == "POST" and b"<Delete" in request.body and part.encode() in request.body:
            gone.append(request.path)
        return await (forward() if gone else refuse(request, forward))

    return behave


async def reset(_: Request, __: Forward) -> bytes:
    """The connection is reset before the store has seen the request."""
    raise CamLayer


async def slow(_: Request, forward: Forward) -> bytes:
    """A store under load."""
    await asyncio.sleep(0.1)
    return await forward()


def answers_lost() -> Behaviour:
    """Each object is written at once, and the answer to its first write never comes."""
    lost: set[str] = set()

    async def behave(request: Request, forward: Forward) -> bytes:
        answer = await forward()
        if request.method == "PUT" and request.path not in lost:
            lost.add(request.path)
            raise CamLayer
        return answer

    return behave


def silent(part: str, seconds: float) -> Behaviour:
    """The first object with this part in its key is written at once, and its writer waits for the answer in vain."""
    written: list[str] = []

    async def behave(request: Request, forward: Forward) -> bytes:
        answer = await forward()
        if request.method == "PUT" and part in request.path and not written:
            written.append(request.path)
            await asyncio.sleep(seconds)
            raise CamLayer
        return answer

    return behave


@dataclass
class S3Proxy:
    """The proxy, in a thread of its own.

    Args:
        port: Where it listens.
        store_port: Of the store.
        behaviour: May be exchanged at any time.
        seen: Method and path of every request that was sent on to the store.
    """

    port: int
    store_port: int
    behaviour: Behaviour = faithful
    seen: list[tuple[str, str]] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self.up()

    def up(self) -> None:
        """Take connections."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    def down(self) -> None:
        """Refuse connections, and cut those that are open."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)

    def heal(self) -> None:
        """End every fault."""
        self.behaviour = faithful
        if self._server is None:
            self.up()

    def stop(self) -> None:
        """End the thread too."""
        self.down()
        asyncio.run_coroutine_threadsafe(_end_all_tasks(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @cached_property
    def _thread(self) -> threading.Thread:
        return threading.Thread(target=self._loop.run_forever, name="s3-proxy", daemon=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port, limit=2**20)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            async with _to_store(self.store_port) as (store_reader, store_writer):
                while (request := await _read_request(reader, writer)) is not None:

                    async def forward(request: Request = request) -> bytes:
                        self.seen.append((request.method, request.path))
                        store_writer.write(request.head + request.body)
                        return await _read_answer(store_reader, request.method)

                    writer.write(await self.behaviour(request, forward))
                    await writer.drain()
        except (CamLayer, OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._connections.discard(writer)
            writer.close()


async def _end_all_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Transports close in the loop's next round.
    await asyncio.sleep(0.05)


@asynccontextmanager
async def _to_store(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=2**20)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    with suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b" ", 2)
        if b"\r\nexpect: 100-continue" in head.lower():
            # Answered here, and not sent on: boto3 does not sign it.
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        return Request(method.decode(), path.decode(), head, await _read_body(reader, head))
    return None


async def _read_answer(reader: asyncio.StreamReader, method: str) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if method == "HEAD" or status in (b"204", b"304"):
        return head
    return head + await _read_body(reader, head)


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body as it came, chunks and all."""
    fields = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if fields.get(b"transfer-encoding") != b"chunked":
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body
