"""What is made in any other way is made anew, and so is what the cache no longer holds or never held like this."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

from heatmill.catalogue import load_catalogue
from heatmill.images import ImageLimits
from heatmill.models import ModelSpec, Preprocessing
from heatmill.schemas import MethodRequest
from heatmill_workers.making import Making
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.models.loaders.transformers import Logits
from heatmill_workers.models.store import ModelStore
from heatmill_workers.models.weights import digest as weights_digest
from heatmill_workers.worker import Worker
from tests.workers.photos import noise
from tests.workers.processed import MODEL, entries, objects, origins, rows_of, submitted
from tests.workers.small import LABELS, small_resnet, small_vit
from tests.workers.vits import of_transformers

IMAGE = {"a": noise(1)}
GRADIENTS = [{"name": "integrated_gradients", "params": {"steps": 2, "max_error": None}}]
SALIENCY = MethodRequest(name="saliency")
LIMITS = ImageLimits(1000, 1000)
SPEC = ModelSpec(name="small", loader="torchvision")
MODULE = "tests.workers.test_cache_misses"


def with_other_weights(worker: Worker) -> Worker:
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
def test_what_is_asked_for_otherwise_is_made(worker: Worker, tenant: str, other: dict[str, Any]) -> None:
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
    worker: Worker, tenant: str, changed: Callable[[Worker], Worker]
) -> None:
    first = submitted(worker, tenant, IMAGE, methods=GRADIENTS)
    assert origins(worker, submitted(changed(worker), tenant, IMAGE, methods=GRADIENTS)) == {None}
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS)) == {first.job}


@pytest.mark.parametrize("kind", ["heatmaps/", "attributions/", ""])
def test_what_the_earlier_job_no_longer_has_is_made_again_and_known_again(
    worker: Worker, tenant: str, kind: str
) -> None:
    first = submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)
    made = [objects(worker, row) for row in rows_of(worker, first)]
    # Of two classes the second is gone: the first was copied already.
    worker.storage.delete([entry.key for entry in worker.storage.list(f"{first.prefix}{kind}")][1:])

    second = submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)

    assert origins(worker, second) == {None}
    assert [objects(worker, row) for row in rows_of(worker, second)] == made
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)) == {second.job}


def test_what_was_taken_outlives_the_job_that_made_it(worker: Worker, tenant: str) -> None:
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
        spoiled(lambda entry: entry.update(unknown=1)),
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
    worker: Worker, tenant: str, spoil: Callable[[bytes], bytes]
) -> None:
    worker.storage.put("other/jobs/secret.png", b"another tenant's")
    submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)
    (key,) = entries(worker, tenant)
    worker.storage.put(key, spoil(worker.storage.get(key)))

    second = submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)

    assert origins(worker, second) == {None}
    assert origins(worker, submitted(worker, tenant, IMAGE, methods=GRADIENTS, top_k=2)) == {second.job}


def making(**changes: Any) -> Making:
    return replace(Making("code", SPEC, small_resnet(), LIMITS), **changes)


def of_model(**changes: Any) -> Making:
    return making(model=replace(small_resnet(), **changes))


def with_stride(stride: int) -> nn.Module:
    """The same weights, which do not show what is done with them."""
    return nn.Sequential(nn.Conv2d(3, 2, 3, stride=stride), nn.Flatten())


@pytest.mark.parametrize(
    "other",
    [
        making(code="other"),
        making(spec=ModelSpec(name="small", loader="timm", labels=LABELS)),
        making(spec=ModelSpec(name="small", loader="torchvision", architecture="resnet34")),
        making(spec=ModelSpec(name="small", loader="torchvision", cam_layer="layer3")),
        making(spec=ModelSpec(name="small", loader="torchvision", sha256="0" * 64)),
        making(model=small_vit()),
        making(limits=ImageLimits(1001, 1000)),
        making(limits=ImageLimits(1000, 1001)),
        of_model(name="other"),
        of_model(digest="0" * 64),
        of_model(labels=LABELS[::-1]),
        of_model(preprocessing=Preprocessing(resize=64, crop=64, interpolation="bicubic")),
        of_model(device=torch.device("cuda")),
        of_model(dtype=torch.bfloat16),
        of_model(module=with_stride(1)),
        of_model(module=with_stride(2)),
    ],
)
def test_all_that_a_result_depends_on_tells_it_from_others(other: Making) -> None:
    assert making().digest(SALIENCY) == making().digest(SALIENCY)
    assert other.digest(SALIENCY) != making().digest(SALIENCY)


def test_methods_and_their_params_are_told_apart_and_graphics_cards_are_not() -> None:
    asked = [MethodRequest(name="a"), MethodRequest(name="b"), MethodRequest(name="a", params={"seed": 1})]
    assert len({making().digest(method) for method in asked}) == 3
    assert of_model(module=with_stride(1)).digest(asked[0]) != of_model(module=with_stride(2)).digest(asked[0])
    first, second = (of_model(device=torch.device(f"cuda:{number}")) for number in range(2))
    assert first.digest(asked[0]) == second.digest(asked[0])


def test_a_transformers_model_is_told_from_one_of_the_same_weights_with_another_configuration() -> None:
    model = of_transformers()
    inner = copy.deepcopy(model.module.inner)
    inner.config.layer_norm_eps *= 10  # type: ignore[operator,union-attr]
    other = replace(model, module=Logits(inner))
    assert weights_digest(other.module) == weights_digest(model.module)
    assert making(model=other).digest(SALIENCY) != making(model=model).digest(SALIENCY)


def test_an_operators_own_code_may_change_and_is_not_cached() -> None:
    own = ModelSpec(
        name="small", loader="python", architecture="own:model", labels=LABELS, preprocessing=Preprocessing()
    )
    assert making().is_known
    assert not making(spec=own).is_known


def bundled_digests() -> list[str]:
    """Of the bundled models."""
    catalogue = load_catalogue()
    store = ModelStore((model.spec for model in catalogue.models), torch.device("cpu"))
    return [
        Making("code", catalogue.model(name).spec, store.get(name), LIMITS).digest(SALIENCY)
        for name in (MODEL, "efficientnet_lite0")
    ]


def test_another_process_knows_what_this_one_made() -> None:
    program = f"import {MODULE} as here; print(*here.bundled_digests())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}  # noqa: TID251 - a child of this test
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert printed.split() == bundled_digests()


def test_an_entry_in_anothers_place_is_a_miss(worker: Worker, tenant: str) -> None:
    submitted(worker, tenant, {"a": noise(1), "b": noise(2)}, methods=[{"name": "saliency"}])
    one, other = entries(worker, tenant)
    worker.storage.put(one, worker.storage.get(other))

    again = submitted(worker, tenant, {"a": noise(1), "b": noise(2)}, methods=[{"name": "saliency"}])

    pictures = {objects(worker, row) for row in rows_of(worker, again)}
    assert len(pictures) == 2
    assert sorted(row.provenance.get("cached_from") is None for row in rows_of(worker, again)) == [False, True]
