"""What the views work with, passed in by whoever makes the app."""

import re
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock

from flask import current_app, g

from heatmill.catalogue.catalogue import Catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import Dispatcher
from heatmill.errors import JobNotFound
from heatmill.images.source_uri import SourceRules
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

EXTENSION = "heatmill"
JOB = re.compile(keys.JOB_PATTERN)


@dataclass
class WriteTrial:
    """What came of the last time that something was written to try the store.

    Args:
        fault: Empty where it was taken.
        until: How long that counts, on the monotonic clock.
    """

    fault: str = ""
    until: float = 0.0
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True)
class ApiContext:
    """The API's collaborators.

    Args:
        waiters: Long polls at a time, in this process: they must leave threads for everybody else.
        write_trial: Of `/readyz`, which anybody may ask for.
    """

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    catalogue: Catalogue
    settings: Settings
    waiters: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(8))
    write_trial: WriteTrial = field(default_factory=WriteTrial)


def api_context() -> ApiContext:
    """The collaborators of the app that serves this request."""
    found = current_app.extensions[EXTENSION]
    if not isinstance(found, ApiContext):
        raise TypeError(f"the app was not made by create_app: {found!r}")
    return found


def tenant() -> str:
    """Who asks; set before a view of `/v1` runs."""
    return str(g.tenant)


def job_id(job: str) -> JobId:
    """The full name of a job of this tenant."""
    return JobId(tenant(), job)


def known(job: str) -> JobId:
    """The full name of a job that may exist.

    Raises:
        JobNotFound: No job is called that.
    """
    if not JOB.fullmatch(job):
        raise JobNotFound(f"there is no job {job[:100]!r}")
    return job_id(job)


def source_rules() -> SourceRules:
    """What this tenant may read."""
    settings = api_context().settings
    return SourceRules(tenant(), settings.source_prefixes, settings.bucket)
