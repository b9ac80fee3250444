"""Accept a job: make it durable, then start it as far as that goes at once."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, cast
from uuid import uuid4

import structlog
from werkzeug.datastructures import FileStorage

from heatmill.coordination.schedule import Window
from heatmill.coordination.task_queue import EXPLAIN_QUEUE, lists
from heatmill.coordination.throughput import slowest_seconds_per_pass
from heatmill.errors import IdempotencyKeyReused, JobDeleted, JobNotFound, QueueUnavailable, StorageUnavailable
from heatmill.jobs import records
from heatmill.jobs.documents import encode
from heatmill.jobs.planner import MAX_TAR_RESULTS, inline_items, shard_items, write_plan
from heatmill.jobs.registration import register_new
from heatmill.schemas import AcceptedJob, JobRequest, Plan
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing, S3Storage, WriteConflict
from heatmill.storage.keys import JobId
from heatmill_api.context import ApiContext
from heatmill_api.jobs.validate import is_small

WRITERS = 8

log = structlog.get_logger()


@dataclass(frozen=True)
class Acceptance:
    """A job that is accepted; `replayed` when an earlier request with the same key had done so."""

    job: AcceptedJob
    replayed: bool = False


def job_for(tenant: str, key: str | None) -> JobId:
    """The id of a new job; the same for the same key, so that the write-once job.json settles repeats."""
    if key is None:
        return JobId(tenant, uuid4().hex)
    return JobId(tenant, hashlib.sha256(f"{tenant}\n{key}".encode()).hexdigest()[:32])


def fingerprint(request: JobRequest) -> str:
    """Says whether two requests ask for the same."""
    canonical = json.dumps(request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def earlier(storage: S3Storage, job: JobId, asked: str) -> Acceptance | None:
    """The job that was accepted under this id before, if any.

    Raises:
        IdempotencyKeyReused: It was asked for in other words, or is deleted.
    """
    try:
        stored = records.load_request(storage, job)
    except JobDeleted as error:
        raise IdempotencyKeyReused(f"this Idempotency-Key belongs to job {job.job}, which was deleted") from error
    except JobNotFound:
        return None
    if stored.fingerprint != asked:
        raise IdempotencyKeyReused(f"this Idempotency-Key belongs to job {job.job}, which was asked for differently")
    return Acceptance(stored, replayed=True)


def store_files(storage: S3Storage, tenant: str, files: Mapping[str, FileStorage]) -> None:
    """Store the images of a form by their content; each is streamed from where the form parser has put it.

    What is stored already may be an upload that went wrong; these bytes have been hashed, so they replace it.
    """

    def store(digest: str) -> None:
        storage.put(keys.blob(tenant, digest), cast(BinaryIO, files[digest].stream), files[digest].mimetype)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(store, files))


def accept(context: ApiContext, job: JobId, request: JobRequest, asked: str, request_id: str = "") -> Acceptance:
    """Make a job durable.

    Args:
        context: The collaborators.
        job: Its id.
        request: Resolved.
        asked: The fingerprint of the caller's own request.
        request_id: Of the HTTP request.

    Raises:
        StorageUnavailable: Nothing is accepted.
        IdempotencyKeyReused: A racing request has taken the id for something else.
    """
    accepted = AcceptedJob(
        id=job.job,
        tenant=job.tenant,
        created_at=datetime.now(UTC),
        request=request,
        fingerprint=asked,
        shard_items=_shard_items(context, request),
        priority=request.priority or ("interactive" if is_small(request) else "normal"),
        request_id=request_id,
    )
    storage = context.storage
    storage.put(keys.open_marker(job), b"")
    try:
        storage.write_once(keys.request(job), encode(accepted))
    except WriteConflict as error:
        _take_back_marker(storage, job)
        replay = earlier(storage, job, asked)
        if replay is None:
            raise StorageUnavailable(f"{keys.request(job)} was there and is not") from error
        return replay
    return Acceptance(accepted)


def start(context: ApiContext, accepted: AcceptedJob) -> None:
    """Plan and send a job of one shard, or ask the control worker to. Whatever fails here, its timer repairs."""
    job = JobId(accepted.tenant, accepted.id)
    try:
        plan = _plan(context.storage, job, accepted)
        register_new(context.state, accepted, plan)
        if plan is None:
            context.dispatcher.plan(job)
        else:
            _send(context, job, accepted)
    except (QueueUnavailable, StorageUnavailable, ObjectMissing) as error:
        log.warning("start left to repair", job=str(job), error=str(error))


def _plan(storage: S3Storage, job: JobId, accepted: AcceptedJob) -> Plan | None:
    """The plan of a job that fits one shard: it pays one hop only."""
    items = accepted.request.items
    if items is None or len(items) > accepted.shard_items:
        return None
    return write_plan(storage, job, accepted, inline_items(items))


def _send(context: ApiContext, job: JobId, accepted: AcceptedJob) -> None:
    state, priority = context.state, accepted.priority
    window = Window(context.settings.window_shards, lists(EXPLAIN_QUEUE, priority))
    if not state.schedule.may_go_first(job, window):
        # It takes its turn: else a tenant's thousand small jobs would all lie before everybody else's.
        context.dispatcher.feed()
        return
    shard = context.state.take_next_shard(job, context.settings.queue_patience_seconds)
    if shard is not None:
        context.dispatcher.explain(job, shard, accepted.priority)


def _shard_items(context: ApiContext, request: JobRequest) -> int:
    """As many items as make a shard of the wanted time, on the slowest type of device that workers have measured.

    Nobody knows which worker will take a shard. One that is too short costs a few round trips; one that is too long
    keeps a slow machine from whatever is urgent, and is given back.
    """
    settings = context.settings
    try:
        pace = slowest_seconds_per_pass(context.state, request.model)
    except QueueUnavailable:
        pace = None
    passes = sum(context.catalogue.passes(method.name, method.params) for method in request.methods)
    # Without methods, for its map alone, an item still takes the pass that predicts.
    passes = passes or 1.0
    items = shard_items(passes * request.top_k * (pace or settings.seconds_per_pass), settings.shard_seconds)
    if request.layout == "objects":
        return items
    return min(items, MAX_TAR_RESULTS // (max(len(request.methods), 1) * request.top_k))


def _take_back_marker(storage: S3Storage, job: JobId) -> None:
    """Remove the marker that this request has just put on a job which another request has seen through already."""
    if storage.exists(keys.final(job)):
        storage.delete([keys.open_marker(job)])
