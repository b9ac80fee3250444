"""An explain worker that is killed in kombu's BRPOP window: after taking its first message, before recording it.

celery -A tests.faults.doomed:explain worker ...
"""

import os
import signal
from typing import Any

from kombu.transport import redis

from heatmill_workers.celery_app.apps import explain

__all__ = ["explain"]


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


setattr(redis.QoS, "append", _die)  # noqa: B010 - mypy refuses the assignment of a method
