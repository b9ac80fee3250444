"""The time limit of a group of images: a child that hangs ends itself, even where it holds Python's lock."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_limited(seconds: float) -> Iterator[None]:
    """End the process if the block takes longer, or longer than since the last `restart_time_limit`.

    The traces of all threads go to standard error then. One block at a time.
    """
    restart_time_limit(seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def restart_time_limit(seconds: float) -> None:
    """Give the block that runs so much time from now on."""
    faulthandler.dump_traceback_later(seconds, exit=True)
