"""What is made in any other way is made anew, and so is what the cache no longer holds or never held like this."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard.context import WorkerContext
from tests.workers.photos import noise
from tests.workers.processed import entries, objects, origins, rows_of, submitted

IMAGE = {"a": noise(1)}
GRADIENTS = [{"name": "integrated_gradients", "params": {"steps": 2, "max_error": None}}]


def with_other_weights(worker: WorkerContext) -> WorkerContext:
    """A worker whose model has the same name and one weight that differs."""

    class Retrained:
        """Hands out the model, retrained."""

        def get(self, name: str) -> LoadedModel:
            return replace(worker.models.get(name), digest="0" * 64)

    return replace(worker, models=cast("ModelStore", Retrained()))


@pytest.mark.parametrize(
    "other",
    [
        {"methods": [{"name": "integrated_gradients", "params": {"steps": 3, "max_error": None}}]},
        {"methods": [{"name": "saliency"}]},
        {"top_k": 2},
        {"items": [{"id": "a", "target": 3}]},
        {"images": {"a": noise(2)}},
    ],
    ids=str,
)
def test_what_is_asked_for_otherwise_is_made(worker: WorkerContext, tenant: str, other: dict[str, Any]) -> None:
    first = submitted(worker, tenant, IMAGE, methods=GRADIENTS)
    request: dict[str, Any] = {"methods": GRADIENTS, **other}
    images = request.pop("images", IMAGE)
    if "items" in request:
        (uri,) = (f"upload://{entry.key.rsplit('/')[-1]}" for entry in worker.storage.list(f"{tenant}/blobs/"))
        request["items"] = [{**request["items"][0], "image": uri}]

    assert origins(worker, submitted(worker, tenant, images, **request)) == {None}
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS)) == {first.job}


@pytest.mark.parametrize(
    "changed", [with_other_weights, lambda worker: replace(worker, code="another")], ids=["weights", "code"]
)
def test_what_another_model_or_other_code_made_is_not_taken(
    worker: WorkerContext, tenant: str, changed: Callable[[WorkerContext], WorkerContext]
) -> None:
    first = submitted(worker, tenant, IMAGE, methods=GRADIENTS)
    assert origins(worker, submitted(changed(worker), tenant, IMAGE, methods=GRADIENTS)) == {None}
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS)) == {first.job}


@pytest.mark.parametrize("kind", ["heatmaps/", "attributions/", ""])
def test_what_the_earlier_job_no_longer_has_is_made_again_and_known_again(
    worker: WorkerContext, tenant: str, kind: str
) -> None:
    first = submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)
    made = [objects(worker, row) for row in rows_of(worker, first)]
    # Of two classes the second is gone: the first was copied already.
    worker.storage.delete([entry.key for entry in worker.storage.list(f"{first.prefix}{kind}")][1:])

    second = submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)

    assert origins(worker, second) == {None}
    assert [objects(worker, row) for row in rows_of(worker, second)] == made
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)) == {second.job}


def test_what_was_taken_outlives_the_job_that_made_it(worker: WorkerContext, tenant: str) -> None:
    first = submitted(worker, tenant, IMAGE, methods=GRADIENTS)
    made = [objects(worker, row) for row in rows_of(worker, first)]
    second = submitted(worker, tenant, IMAGE, methods=GRADIENTS)
    worker.storage.delete([entry.key for entry in worker.storage.list(first.prefix)])
    assert [objects(worker, row) for row in rows_of(worker, second)] == made


def spoiled(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Changes an entry's JSON in place."""

    def spoil(stored: bytes) -> bytes:
        entry = json.loads(stored)
        change(entry)
        return json.dumps(entry).encode()

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"\xff\x00 no JSON",
        lambda _: b"[]",
        lambda stored: stored[: len(stored) // 2],
        spoiled(lambda entry: entry.update(format=2)),
        spoiled(lambda entry: entry.update(job="../../" + "0" * 26)),
        spoiled(lambda entry: entry.update(rows=[])),
        spoiled(lambda entry: entry["rows"].append(entry["rows"][0])),
        spoiled(lambda entry: entry["rows"].pop()),
        spoiled(lambda entry: entry["rows"][0].update(method="saliency")),
        spoiled(lambda entry: entry["rows"][0].update(status="failed")),
        spoiled(lambda entry: entry["rows"][0].pop("target")),
        spoiled(lambda entry: entry["rows"][0].pop("heatmap")),
        spoiled(lambda entry: entry["rows"][0].pop("attribution")),
        spoiled(lambda entry: entry["rows"][0]["heatmap"].update(key="other/jobs/secret.png")),
        spoiled(lambda entry: entry["rows"][0]["attribution"].update(key="open/x")),
    ],
)
def test_an_entry_that_is_not_one_is_made_again_and_replaced(
    worker: WorkerContext, tenant: str, spoil: Callable[[bytes], bytes]
) -> None:
    worker.storage.put("other/jobs/secret.png", b"another tenant's")
    submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)
    (key,) = entries(worker, tenant)
    worker.storage.put(key, spoil(worker.storage.get(key)))

    second = submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)

    assert origins(worker, second) == {None}
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)) == {second.job}


def test_an_entry_in_anothers_place_is_a_miss(worker: WorkerContext, tenant: str) -> None:
    submitted(worker, tenant, {"a": noise(1), "b": noise(2)}, methods=[{"name": "saliency"}])
    one, other = entries(worker, tenant)
    worker.storage.put(one, worker.storage.get(other))

    again = submitted(worker, tenant, {"a": noise(1), "b": noise(2)}, methods=[{"name": "saliency"}])

    pictures = {objects(worker, row) for row in rows_of(worker, again)}
    assert len(pictures) == 2
    assert sorted(row.provenance.get("cached_from") is None for row in rows_of(worker, again)) == [False, True]
