"""heatmill's own processes: how each is started."""

import http.client
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from heatmill.local.ports import LOOPBACK
from heatmill.local.processes import Program

# Its socket takes requests long before the program behind it is loaded: those are given up soon.
ALIVE_SECONDS = 0.3
READY_SECONDS = 5.0
STOPPABLE = (sys.executable, "-m", "heatmill.stoppable")


def api(folder: Path, port: int, environment: Mapping[str, str]) -> Program:
    """The HTTP API."""
    arguments = (
        *("-c", "python:heatmill_api.gunicorn_conf"),
        *("--bind", f"{LOOPBACK}:{port}"),
        # Its threads are enough for one machine's callers, and a second process would slow down the start.
        *("--workers", "1"),
        "heatmill_api.wsgi:app",
    )
    return Program("api", (*STOPPABLE, "gunicorn", *arguments), folder, environment)


def control_worker(folder: Path, environment: Mapping[str, str]) -> Program:
    """Plans, feeds, finishes and repairs; its timer is inside."""
    return _worker("control", "control", folder, environment)


def explain_worker(number: int, folder: Path, environment: Mapping[str, str]) -> Program:
    """Computes heatmaps; one child at a time, on one device."""
    return _worker(f"explain-{number}", "explain", folder, environment)


def api_answers(port: int) -> bool:
    """Whether the API and what it stands on are ready."""
    return _answers(port, "/livez", ALIVE_SECONDS) and _answers(port, "/readyz", READY_SECONDS)


def _answers(port: int, path: str, seconds: float) -> bool:
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=seconds)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _worker(name: str, app: str, folder: Path, environment: Mapping[str, str]) -> Program:
    arguments = (
        *("-A", f"heatmill_workers.celery_app.apps:{app}", "worker"),
        *("--queues", app),
        *("--hostname", f"{name}@heatmill"),
        *("--loglevel", "INFO"),
        # Workers of one machine have nothing to tell each other.
        *("--without-gossip", "--without-mingle"),
    )
    return Program(name, (*STOPPABLE, "celery", *arguments), folder, environment)
