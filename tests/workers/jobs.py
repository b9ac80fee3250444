"""Jobs as the API would have accepted them, for tests of the workers."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.rings import Rings
from heatmill.coordination.task_queue import FEED
from heatmill.schemas import AcceptedJob, JobRequest
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

MODEL = "efficientnet_lite0"


def accept(storage: S3Storage, tenant: str = "default", shard_items: int = 2, **request: Any) -> JobId:
    """Store a job as accepted: marker, then job.json."""
    job = JobId(tenant, uuid4().hex)
    body = {"model": MODEL, "methods": [{"name": "saliency"}], **request}
    accepted = AcceptedJob(
        id=job.job,
        tenant=tenant,
        created_at=datetime.now(UTC),
        request=JobRequest.model_validate(body),
        fingerprint=hashlib.sha256(json.dumps(body).encode()).hexdigest(),
        shard_items=shard_items,
        priority=body.get("priority", "normal"),
    )
    storage.put(keys.open_marker(job), b"")
    storage.write_once(keys.request(job), accepted.model_dump_json().encode())
    return job


def upload(storage: S3Storage, data: bytes, tenant: str = "default") -> str:
    """Store an image as an upload, and give back its URI."""
    digest = hashlib.sha256(data).hexdigest()
    storage.put(keys.blob(tenant, digest), data)
    return f"upload://{digest}"


def pass_time(state: RedisJobStore, job: JobId) -> None:
    """What was sent or claimed for long is late now."""
    names = f"heatmill:{{{job}}}:"
    for shard in state.client.zrange(f"{names}inflight", 0, -1):
        state.client.zadd(f"{names}inflight", {str(shard): 1})
    for shard, holder in state.client.hgetall(f"{names}claims").items():
        state.client.hset(f"{names}claims", str(shard), f"{str(holder).split()[0]} 1")


def sent(state: RedisJobStore) -> list[tuple[str, int]]:
    """Take every explain message off the queue: (tenant/job, shard), highest priority first, oldest first."""
    messages = []
    for name in ("explain", "explain:0", "explain:3", "explain:6"):
        while (raw := state.client.rpop(name)) is not None:
            tenant, job, shard = json.loads(_body(json.loads(str(raw))))[0]
            messages.append((f"{tenant}/{job}", shard))
    return messages


def rung(state: RedisJobStore, task: str) -> set[JobId]:
    """Take a task's messages off the control queue: the jobs that it was rung for. Those of feed go, others stay."""
    jobs = set()
    for name in ("control", "control:0", "control:3", "control:6"):
        others = []
        while (raw := state.client.rpop(name)) is not None:
            message = json.loads(str(raw))
            about, kind = json.loads(_body(message))[0], message["headers"]["task"]
            if kind not in (task, FEED):
                others.append(str(raw))
                continue
            job = JobId(*about) if about else None
            Rings(state.client).taken(kind, job)
            jobs |= {job} if job is not None else set()
        if others:
            state.client.lpush(name, *others)
    return jobs


def _body(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message["body"])
