"""Tell a worker's child that the worker stops, so that it gives its shard back instead of finishing it."""

import os
import signal
import threading
from contextlib import suppress

from billiard.process import active_children

# Celery uses SIGUSR1.
SIGNAL = signal.SIGUSR2
_STOPPING = threading.Event()


def tell_children() -> None:
    """In the parent: it is shutting down."""
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, SIGNAL)


def listen_to_parent() -> None:
    """In a child: note when the parent shuts down. In its main thread."""
    signal.signal(SIGNAL, lambda *_: _STOPPING.set())


def is_stopping() -> bool:
    """Whether the parent of this process is shutting down."""
    return _STOPPING.is_set()
