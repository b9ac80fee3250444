"""Delete jobs: those whose time is over, and the objects of those that somebody has deleted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice

import structlog

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import Dispatcher
from heatmill.errors import HeatmillError, JobNotFound, RecordDamaged, RecordTooNew, TransientError
from heatmill.jobs import index as job_index
from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.bucket import ListedObject, S3Storage
from heatmill.storage.keys import JobId

# Objects between two looks whether the sweep is still ours: three calls at a time, and where the store deletes one by
# one, still less than the hold's time.
PART = 3000
# Jobs that one tick of the timer begins with; the next tick comes in seconds.
JOBS_PER_TICK = 20
# That are told, each once in the life of the process.
STRAYS = 1000
_told: set[str] = set()

log = structlog.get_logger()


def expire(storage: S3Storage, state: RedisJobStore) -> None:
    """Delete the jobs whose time is over. Markers sort by time, so the first one in the future ends the search."""
    for marker, job in islice(markers(storage, keys.EXPIRY_PREFIX), JOBS_PER_TICK):
        with log_and_continue(marker.key):
            _, when = keys.read_expiry_marker(marker.key)
            if when > datetime.now(UTC):
                return
            with suppress(JobNotFound, RecordDamaged):
                job_index.remove(state, records.load_request(storage, job))
            records.mark_deleted(storage, job)
            storage.delete([marker.key])
            log.info("expired", job=str(job))


def ring_for_trash(storage: S3Storage, dispatcher: Dispatcher) -> None:
    """Ask for what deleted jobs have left to be swept."""
    for marker, job in islice(markers(storage, keys.TRASH_PREFIX), JOBS_PER_TICK):
        with log_and_continue(marker.key):
            dispatcher.sweep(job)


def sweep(storage: S3Storage, job: JobId, still_ours: Callable[[], bool], again_seconds: float) -> None:
    """Remove a deleted job's objects, but for its tombstone; at last the marker that asks for this.

    Args:
        storage: The store.
        job: Its trash marker is there.
        still_ours: Prolongs the hold; False ends the sweep, which somebody else goes on with.
        again_seconds: After a sweep that found something comes another: a worker that was frozen may write so late.
    """
    # Whoever wrote the marker may have died before the rest.
    records.mark_deleted(storage, job)
    left = (entry.key for entry in storage.list(job.prefix) if entry.key != keys.request(job))
    found = 0
    while part := list(islice(left, PART)):
        if not still_ours():
            return
        storage.delete(part)
        found += len(part)
    if found:
        storage.put(keys.expiry_marker(job, datetime.now(UTC) + timedelta(seconds=again_seconds)), b"")
    storage.delete([keys.trash_marker(job)])
    log.info("swept", job=str(job), objects=found)


def markers(storage: S3Storage, prefix: str) -> Iterator[tuple[ListedObject, JobId]]:
    """The markers below a prefix, each with its job. What else lies there is told once, and left alone."""
    for entry in storage.list(prefix):
        job = keys.marked_job(prefix, entry.key)
        if job is None:
            _tell_once(entry.key, "an object among the markers is none, and is left alone")
        else:
            yield entry, job


def _tell_once(key: str, words: str) -> None:
    # Beyond so many a reader knows, and the log is spared.
    if key not in _told and len(_told) < STRAYS:
        _told.add(key)
        log.warning(words, key=key)


@contextmanager
def log_and_continue(what: str) -> Iterator[None]:
    """A damaged record, or a stray object among the markers, is its own trouble, not that of those after it.

    So is a store that takes nothing of one tenant.
    """
    try:
        yield
    except RecordTooNew as error:
        _tell_once(str(error), "left to a newer heatmill")
    except TransientError as error:
        log.warning("put off", what=what, error=str(error))
    except (HeatmillError, LookupError, ValueError):
        log.exception("cannot be repaired", what=what)
