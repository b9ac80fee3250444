"""Whether this process lives, and whether what it stands on answers."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Literal

import structlog
from flask import Response

from heatmill.errors import TransientError
from heatmill.schemas import Schema
from heatmill.storage.bucket import ObjectMissing, S3Storage
from heatmill.storage.write_trial import try_write
from heatmill_api.context import ApiContext, WriteTrial, api_context
from heatmill_api.http.problems import unavailable
from heatmill_api.http.responses import reply
from heatmill_api.http.routing import answers, unversioned

# Between two writes that try the store, in one process.
TRIAL_SECONDS = 10.0
# Shorter than whoever probes waits: what hangs is told, too. Checks that hang keep their threads, and the others wait.
PROBE_SECONDS = 4.0
PROBES = ThreadPoolExecutor(4, "probe")

api = unversioned("health")
log = structlog.get_logger()


class Liveness(Schema):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Dependency(Schema):
    """Something that the API stands on."""

    status: Literal["ok", "down", "read_only"]
    message: str = ""


class StorageHealth(Dependency):
    """The object store. One that is full, or refuses to write, is still read, and its jobs can be deleted."""

    conditional_writes: bool | None = None


class Readiness(Schema):
    """What answers.

    Without Redis the API is ready: it takes jobs, which wait until Redis is back. With a store that takes nothing it is
    ready too: what is stored is read, and deleting makes room.
    """

    ready: bool
    redis: Dependency
    storage: StorageHealth


@api.get("/livez", responses=answers({200: Liveness}))
def livez() -> Response:
    """Say that this process lives."""
    return reply(Liveness())


@api.get("/readyz", responses=answers({200: Readiness, 503: Readiness}))
def readyz() -> Response:
    """Say whether the object store answers, and whether Redis takes messages."""
    context = api_context()
    fault = _fault(context.state.ping) or _fault(context.dispatcher.probe)
    redis = Dependency(status="down", message=fault) if fault else Dependency(status="ok")
    storage = _storage(context)
    ready = storage.status != "down"
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return reply(Readiness(ready=ready, redis=redis, storage=storage), status)


def _storage(context: ApiContext) -> StorageHealth:
    storage = context.storage
    if fault := _fault(storage.ping):
        return StorageHealth(status="down", message=fault)
    if fault := _write_fault(context.write_trial, storage) or _fault(lambda: storage.has_conditional_writes):
        return StorageHealth(status="read_only", message=f"it takes nothing: {fault}")
    if storage.has_conditional_writes:
        return StorageHealth(status="ok", conditional_writes=True)
    message = "this store does not order racing writes; heatmill relies on claims in Redis instead"
    return StorageHealth(status="ok", conditional_writes=False, message=message)


def _write_fault(trial: WriteTrial, storage: S3Storage) -> str:
    """What is wrong with writing; tried at most every few seconds, since anybody may ask, and writes cost."""
    with trial.lock:
        if time.monotonic() >= trial.until:
            trial.fault = _fault(lambda: try_write(storage))
            trial.until = time.monotonic() + TRIAL_SECONDS
        return trial.fault


def _fault(check: Callable[[], object]) -> str:
    """What a check says is wrong; empty where nothing is."""
    try:
        PROBES.submit(check).result(PROBE_SECONDS)
    except TimeoutError:
        return f"it does not answer within {PROBE_SECONDS:.0f} seconds"
    except TransientError as error:
        return unavailable(error)
    except ObjectMissing as error:
        log.warning("no bucket", bucket=str(error))
        return "its bucket is not there"
    return ""
