"""What is left of a method's pace when a job pays for the rest: queue, fetch, decode, predict, render, store, commit.

A job's time is that from its POST to its last commit. Before and after it the same photos are explained in memory, in
this process, by the same method in batches of a group's size. All is done by the same cores, so that on a machine
without an accelerator each millisecond of the pipeline is one that the model does not get.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.service import Service, jpegs, service
from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import BUNDLED_MODEL
from heatmill.images import ImageLimits, decode
from heatmill.schemas import MethodRequest
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loading import pick_device
from heatmill_workers.models.preprocessing import preprocess
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard.predict import predict
from heatmill_workers.shard.process import GROUP_ITEMS

LIMITS = ImageLimits(50 * 2**20, 50_000_000)
# Photos that are explained in memory; of a method that takes seconds, as many as a job of 16 has in a group.
MEMORY_IMAGES, FEW_MEMORY_IMAGES = 32, 4
# Passes of the job that comes before: a batch size is measured over many, and libraries prepare themselves for each.
WARM_PASSES = 500
# Methods of many passes are given fewer here, and fewer images: more of either can only bring them nearer to 1.
METHODS: dict[str, tuple[dict[str, object], Sequence[int], Sequence[int]]] = {
    "saliency": ({}, (1, 64), (1, 64, 1000)),
    "grad_cam": ({}, (1, 64), (1, 64, 1000)),
    "integrated_gradients": ({"steps": 50}, (1,), (1, 16)),
    "lime": ({"samples": 200}, (), (1, 16)),
    "partition_shap": ({"max_evals": 200}, (), (1, 16)),
}

Row = dict[str, Any]


def measure(*, quick: bool) -> list[Row]:
    """One row for each method and size of job."""
    most = max(max(sizes[0] if quick else sizes[1], default=0) for _, *sizes in METHODS.values())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = jpegs(folder, most)
        running = stack.enter_context(service(folder / "service"))
        images = running.uploaded(files)
        model = ModelStore((each.spec for each in load_catalogue().models), pick_device()).get(BUNDLED_MODEL)
        photos = torch.stack([photo(file, model) for file in files[:MEMORY_IMAGES]])
        rows = []
        for name, (params, few, many) in METHODS.items():
            if not (few if quick else many):
                continue
            method = MethodRequest(name=name, params=params)
            # The worker loads its model, and both measure what they measure once.
            warm = min(len(images), round(WARM_PASSES / load_catalogue().method(name).passes.estimate(params)))
            running.seconds_to_last_commit(BUNDLED_MODEL, method, images[:warm])
            _in_memory(model, method, photos[:warm])
            shown = photos[:FEW_MEMORY_IMAGES] if params else photos
            for count in few if quick else many:
                rows.append(_row(running, model, method, images[:count], shown))
                print(rows[-1], flush=True)
    return rows


def _row(running: Service, model: LoadedModel, method: MethodRequest, images: Sequence[str], photos: Tensor) -> Row:
    before = _in_memory(model, method, photos[: len(images)])
    seconds = running.seconds_to_last_commit(BUNDLED_MODEL, method, images)
    after = _in_memory(model, method, photos[: len(images)])
    memory = (before + after) / 2
    return {
        "method": method.name,
        "params": method.params,
        "images": len(images),
        "images_per_second": len(images) / seconds,
        "in_memory_images_per_second": 1 / memory,
        "efficiency": memory * len(images) / seconds,
        "overhead_ms_per_image": 1000 * (seconds / len(images) - memory),
    }


def _in_memory(model: LoadedModel, method: MethodRequest, photos: Tensor) -> float:
    """Seconds an image."""
    targets = predict(model, photos).argmax(1)
    explain(method.name, model, photos[:1], targets[:1], method.params)
    started = time.perf_counter()
    for group in zip(torch.split(photos, GROUP_ITEMS), torch.split(targets, GROUP_ITEMS), strict=True):
        explain(method.name, model, *group, method.params)
    return (time.perf_counter() - started) / len(photos)


def photo(file: Path, model: LoadedModel) -> Tensor:
    """As a worker prepares it, (3, H, W)."""
    return preprocess(decode(file.read_bytes(), LIMITS), model.preprocessing)[0]
