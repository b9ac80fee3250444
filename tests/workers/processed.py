"""Jobs that are submitted, planned and worked off in this process, and what they made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_forward_hook

from heatmill.jobs import records
from heatmill.schemas import Row
from heatmill.storage.keys import JobId
from heatmill_workers.control.schedule import ControlContext, plan
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import accept, sent, upload

MODEL = "digits_vit"
METHODS = [{"name": "saliency"}, {"name": "grad_cam"}]


def control_of(worker: WorkerContext) -> ControlContext:
    return ControlContext(worker.storage, worker.state, worker.dispatcher, worker.catalogue, worker.settings)


def planned(worker: WorkerContext, tenant: str, images: Mapping[str, bytes | str], **request: Any) -> JobId:
    """A job of uploads and of URIs, by item id, that nobody has worked on."""
    items = [
        {"id": name, "image": image if isinstance(image, str) else upload(worker.storage, image, tenant)}
        for name, image in images.items()
    ]
    body = {"model": MODEL, "items": items, "shard_items": 8, **request}
    job = accept(worker.storage, tenant, **body)
    plan(control_of(worker), job)
    return job


def planned_fresh(worker: WorkerContext, **request: object) -> JobId:
    """A planned job that takes nothing from the cache, its messages off the queue."""
    request = {"methods": METHODS, "shard_items": 8, "cache": False, **request}
    job = accept(worker.storage, **request)  # type: ignore[arg-type]
    plan(control_of(worker), job)
    sent(worker.state)
    return job


def submitted(worker: WorkerContext, tenant: str, images: Mapping[str, bytes | str], **request: Any) -> JobId:
    """A job whose shards are all committed."""
    job = planned(worker, tenant, images, **request)
    for number in range(shards(worker, job)):
        process_shard(worker, job, number)
    return job


def shards(worker: WorkerContext, job: JobId) -> int:
    found = records.load_plan(worker.storage, job)
    assert found
    return found.shards


def rows_of(worker: WorkerContext, job: JobId) -> list[Row]:
    return [row for number in range(shards(worker, job)) for row in records.load_rows(worker.storage, job, number)]


def origins(worker: WorkerContext, job: JobId) -> set[str | None]:
    """The jobs that the results were taken from; None for results that were made. All must have succeeded."""
    rows = rows_of(worker, job)
    assert [row.error for row in rows if row.error] == []
    return {row.provenance.get("cached_from") for row in rows}


def objects(worker: WorkerContext, row: Row) -> tuple[bytes, bytes]:
    """Heatmap and attribution."""
    assert row.heatmap
    assert row.attribution
    heatmap, attribution = (worker.storage.get_part(file.key, file.range) for file in (row.heatmap, row.attribution))
    return heatmap, attribution


def entries(worker: WorkerContext, tenant: str) -> list[str]:
    """Keys of all that the tenant's cache holds."""
    return [entry.key for entry in worker.storage.list(f"{tenant}/cache/")]


@contextmanager
def counted() -> Iterator[list[str]]:
    """Every call of a module of any model, by its class."""
    calls: list[str] = []
    handle = register_module_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    try:
        yield calls
    finally:
        handle.remove()
