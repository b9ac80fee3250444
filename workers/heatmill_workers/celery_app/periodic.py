"""What is done again and again: in a thread, which cannot die while its process goes on and looks well."""

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger()


def every(name: str, seconds: float, run: Callable[[], None]) -> threading.Event:
    """Run something again and again, in a thread; an error ends one run and not the timer.

    Args:
        name: What the thread and its errors are called.
        seconds: Between the end of one run and the start of the next.
        run: What to do.

    Returns:
        An event that ends the timer when it is set.
    """
    stopped = threading.Event()

    def keep_running() -> None:
        while not stopped.wait(seconds):
            try:
                run()
            except Exception:
                # The thread's boundary: without repair nothing would heal any more.
                log.exception("failed, and goes on", timer=name)

    threading.Thread(target=keep_running, name=name, daemon=True).start()
    return stopped
