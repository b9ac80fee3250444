"""Accepted jobs for tests that only need one."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from heatmill.schemas import AcceptedJob, JobRequest
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

SOURCE = {"uri": "s3://bucket/prefix/"}


def accepted_job(shard_items: int = 2, **request: Any) -> AcceptedJob:
    """A job of its own id."""
    if "items" not in request:
        request = {"source": SOURCE, **request}
    return AcceptedJob(
        id=uuid4().hex,
        tenant="tenant",
        created_at=datetime.now(UTC),
        request=JobRequest.model_validate({"model": "m", "methods": [{"name": "a"}, {"name": "b"}], **request}),
        fingerprint="0" * 64,
        shard_items=shard_items,
        priority="normal",
    )


def store(storage: S3Storage, accepted: AcceptedJob) -> JobId:
    """Accept it."""
    job = JobId(accepted.tenant, accepted.id)
    storage.put(keys.open_marker(job), b"")
    storage.write_once(keys.request(job), accepted.model_dump_json().encode())
    return job
