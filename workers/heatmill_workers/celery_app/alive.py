"""A file that says that this process lives, for a probe that asks nobody and starts nothing."""

from pathlib import Path
from threading import Event

from heatmill_workers.celery_app.periodic import every

# `docker/worker-alive` wants it to be younger than 60 s.
TOUCH_SECONDS = 5.0


def keep_touched(path: Path, seconds: float = TOUCH_SECONDS) -> Event:
    """Touch a file now and then in a thread, whatever Redis and the store do.

    A worker that is alive and takes nothing is ended by the watchdog, which knows whether there is anything to take.

    Returns:
        An event that ends it when it is set.

    Raises:
        OSError: The file cannot be written.
    """
    path.touch()
    return every("alive", seconds, path.touch)
