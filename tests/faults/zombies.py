"""A worker that is frozen in the middle of its last write."""

import asyncio
import json
import os
import signal

from tests.faults.s3_proxy import Forward, Request


class FrozenWriter:
    """A behaviour of the proxy: the first commit record is held back, and its writer frozen, until it is thawed.

    Attributes:
        group: Of the frozen worker's processes.
        answers: Status of what the store said to the late write.
    """

    def __init__(self) -> None:
        self.group: int | None = None
        self.answers: list[bytes] = []
        self._thawed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def behave(self, request: Request, forward: Forward) -> bytes:
        """Hold the first commit record back."""
        if self.group is not None or request.method != "PUT" or "/results/" not in request.path:
            return await forward()
        self._loop = asyncio.get_running_loop()
        worker = json.loads(request.body.split(b"\n", 1)[0])["worker"]
        self.group = os.getpgid(int(worker.rsplit("-", 1)[1]))
        os.killpg(self.group, signal.SIGSTOP)
        await self._thawed.wait()
        answer = await forward()
        self.answers.append(answer.split(b" ", 2)[1])
        return answer

    def thaw(self) -> None:
        """Let the write and its writer go on."""
        if self._loop is not None and self.group is not None:
            self._loop.call_soon_threadsafe(self._thawed.set)
            os.killpg(self.group, signal.SIGCONT)
