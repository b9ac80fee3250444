"""Run a module as `python -m` does, and end at SIGTERM also before the module listens for it.

python -m heatmill.stoppable celery -A heatmill_workers.celery_app.apps:control worker --queues control

As process 1 of a container a program has no default action for signals: one that comes before Celery or gunicorn has
set its handler would be lost, and the container would go on as if nobody had asked it to stop.
"""

import os
import signal


def _end(*_: object) -> None:
    # At once: nothing has been started that would have to be tidied up.
    os._exit(0)


if __name__ == "__main__":
    # Before the imports that take longer.
    signal.signal(signal.SIGTERM, _end)

    import runpy
    import sys

    if len(sys.argv) < 2:
        sys.exit("usage: python -m heatmill.stoppable MODULE [ARGUMENT ...]")
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
