"""Requests and records as callers and workers would make them."""

import hashlib
import io
from datetime import UTC, datetime
from typing import Any

from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from heatmill.coordination.job_store import RedisJobStore
from heatmill.jobs import records
from heatmill.jobs.parts import Part
from heatmill.jobs.status import load_job
from heatmill.schemas import CommitHeader, JobState, Row, StoredPicture, StoredPreview, Target
from heatmill.schemas.byte_range import byte_range
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId, ShardId

SHA = "a" * 64
MODEL = "efficientnet_lite0"


def body(items: int = 1, **more: Any) -> dict[str, Any]:
    """A job request that is right."""
    listed = [{"id": f"photo-{number}", "image": f"upload://{SHA}"} for number in range(items)]
    return {"model": MODEL, "methods": [{"name": "saliency"}], "items": listed, **more}


def submit(client: FlaskClient, **more: Any) -> JobId:
    """Submit a job and give back its name."""
    return JobId("default", answered(client.post("/v1/jobs", json=body(**more)), 202)["id"])


def answered(answer: TestResponse, status: int = 200) -> dict[str, Any]:
    """The JSON of an answer that has this status."""
    assert answer.status_code == status, answer.text
    content = answer.json
    assert isinstance(content, dict)
    return content


def commit(storage: S3Storage, job: JobId, shard: int, *rows: Row, part: Part | None = None) -> CommitHeader:
    """Commit a whole shard as workers of earlier versions did, or a part of one."""
    header, record = records.commit_record(ShardId(job, shard), rows, 1.0, "test", part)
    storage.write_once(keys.commit(job, shard, header.part), record)
    return header


def row(index: int, **more: Any) -> Row:
    """A result without files."""
    fields: dict[str, Any] = {"item": f"photo-{index}", "method": "saliency", "rank": 0, "status": "succeeded"}
    return Row(index=index, **{**fields, "target": Target(index=1, label="cat", probability=0.5), **more})


def finish(storage: S3Storage, state: RedisJobStore, job: JobId, end: JobState = "succeeded") -> None:
    """End a job as the control worker does."""
    current = load_job(storage, state, job)
    final = current.model_copy(update={"state": end, "done": True, "finished_at": datetime.now(UTC)})
    storage.write_once(keys.final(job), final.model_dump_json().encode())
    storage.delete([keys.open_marker(job)])
    state.forget(job)


def picture(storage: S3Storage, job: JobId, shard: int, name: str) -> StoredPicture:
    """Store a heatmap that is red on the left half, as an indexed PNG."""
    heatmap = Image.new("P", (8, 8), 0)
    heatmap.putpalette([0, 0, 255, 255, 0, 0])
    heatmap.paste(1, (0, 0, 4, 8))
    key = keys.heatmap(job, shard, name)
    storage.put(key, png(heatmap), "image/png")
    return StoredPicture(key=key, scale=1.0, zero_index=0, box=(0.0, 0.0, 100.0, 100.0))


def preview(storage: S3Storage, job: JobId, colour: tuple[int, int, int]) -> StoredPreview:
    """Store a preview of one colour behind another one, and say where."""
    buffer = io.BytesIO()
    Image.new("RGB", (100, 100), colour).save(buffer, "JPEG", quality=95)
    jpeg, key = buffer.getvalue(), keys.previews(job, 0, 0, "0" * 64)
    storage.put(key, b"another" + jpeg)
    digest = hashlib.sha256(jpeg).hexdigest()
    return StoredPreview(key=key, range=byte_range(7, len(jpeg)), sha256=digest, size=(100, 100))


def png(picture: Image.Image) -> bytes:
    """A picture's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def upload(storage: S3Storage, data: bytes, tenant: str = "default") -> str:
    """Store an image as an upload, and give back its URI."""
    digest = hashlib.sha256(data).hexdigest()
    storage.put(keys.blob(tenant, digest), data)
    return f"upload://{digest}"
