"""Everything that `heatmill up` runs, as one resource with a life."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from heatmill.local import interrupts
from heatmill.local.data_folder import data_folder, remembered
from heatmill.local.errors import LocalStackError
from heatmill.local.layout import BUCKET, SOURCES, Layout, StackOptions
from heatmill.local.ports import port_near
from heatmill.local.processes import POLL_SECONDS
from heatmill.local.reaper import Reaper
from heatmill.local.servers.seaweedfs import Buckets, endpoint
from heatmill.local.supervisor import Supervisor

START_SECONDS = 60.0
log = logging.getLogger(__name__)


class Stack:
    """Redis, SeaweedFS, the API and the workers, on loopback; nothing of it outlives this process.

    One thread starts, watches and stops all children, for two reasons: Ctrl-C is raised in the main thread and so never
    between the start of a child and the note of it; and Linux ties a child's life to the thread that started it.

    Args:
        options: What the operator chooses.
        say: Tells the operator something, one line; called from that thread.
    """

    def __init__(self, options: StackOptions, say: Callable[[str], None] = log.info) -> None:
        self.options = options
        self._say = say
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        # Not the thread's own is_alive(): it is False for good once Ctrl-C has hit a join().
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._layout: Layout | None = None
        self._thread = threading.Thread(target=self._live, name="heatmill-stack")

    @property
    def url(self) -> str:
        """Of the API."""
        return self._known_layout.url

    @property
    def folder(self) -> Path:
        """Data, credentials and logs."""
        return self._known_layout.folder

    @property
    def environment(self) -> dict[str, str]:
        """All of the environment of API and workers."""
        return self._known_layout.environment

    def start(self) -> None:
        """Start all parts, and return when they answer.

        Raises:
            LocalStackError: A part cannot run; nothing is left running.
        """
        try:
            self._start_thread()
            _wait_for(self._settled)
        except BaseException:
            self.stop()
            raise
        if self._failure is not None:
            self.wait()

    def stop(self) -> None:
        """Stop all parts: workers, then the API, then the servers. Ctrl-C while it stops kills what is left."""
        with interrupts.noted() as signals:
            self._stopping.set()
            while self._thread.ident is not None and not self._ended.is_set():
                if signals:
                    self._hurry.set()
                time.sleep(POLL_SECONDS)

    def wait(self) -> None:
        """Return when the stack has been stopped.

        Raises:
            LocalStackError: It ended by itself.
        """
        _wait_for(self._ended)
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except KeyboardInterrupt:
            # It came before stop() took note of signals.
            self.stop()

    @property
    def _known_layout(self) -> Layout:
        if self._layout is None:
            raise LocalStackError("the stack has not been started")
        return self._layout

    def _start_thread(self) -> None:
        # Whole or not at all: stop() has to know whether there is a thread.
        with interrupts.noted() as signals:
            self._thread.start()
        if signals:
            raise KeyboardInterrupt

    def _live(self) -> None:
        try:
            with data_folder(self.options.data_dir) as folder, self._laid_out(folder.path) as layout:
                self._run(layout, Reaper(layout.logs, folder.lock))
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits in start()
            self._failure = error
        finally:
            self._settled.set()
            self._ended.set()

    @contextmanager
    def _laid_out(self, folder: Path) -> Iterator[Layout]:
        port = port_near(self.options.port)
        if port != self.options.port != 0:
            self._say(f"port {self.options.port} is taken; using {port}")
        layout = self._layout = Layout(self.options, folder, port, remembered(folder))
        try:
            yield layout
        finally:
            layout.remembered.object_store_ports.remove_sockets()

    def _run(self, layout: Layout, reaper: Reaper) -> None:
        supervisor = Supervisor(layout.logs, reaper, self._should_stop, self._say)
        known = layout.remembered
        try:
            url = endpoint(known.object_store_ports.s3)
            with closing(Buckets(url, known.credentials, (BUCKET, SOURCES))) as buckets:
                supervisor.start(layout.servers(buckets.answer))
                supervisor.wait_for_answers(START_SECONDS)
            if self.options.services:
                supervisor.start(layout.api())
                supervisor.start(layout.explain_workers())
                supervisor.wait_for_answers(START_SECONDS)
                # Last, since on two cores it would slow down those that the first job needs sooner.
                supervisor.start_more(layout.control_worker())
            self._settled.set()
            supervisor.supervise()
        finally:
            supervisor.shut_down(self._hurry)

    def _should_stop(self) -> bool:
        # The main thread ends without a stop() when Ctrl-C hits it in an unlucky place; Python then waits for this one.
        return self._stopping.is_set() or not threading.main_thread().is_alive()


def _wait_for(event: threading.Event) -> None:
    # Not event.wait(): Ctrl-C in an unlucky place leaves its lock taken, and then set() hangs.
    while not event.is_set():
        time.sleep(POLL_SECONDS)
