"""Bad input that only a worker can know: the row says what is wrong, and the other items and methods go on."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from heatmill.catalogue.catalogue import Catalogue, load_catalogue
from heatmill.jobs import records
from heatmill.schemas import Row
from heatmill_workers.control.schedule import ControlContext, plan
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import accept, upload
from tests.workers.photos import noise, photo
from tests.workers.small import architecture, small_vit

SPOT = Image.new("RGB", (1, 1), (10, 200, 30))
MODELS = """
[[models]]
name = "own_cnn"
loader = "python"
architecture = "{module}:cnn"
labels = {labels}
preprocessing = {{ resize = 64, crop = 64 }}

[[models]]
name = "own_vit"
loader = "python"
architecture = "{module}:vit"
labels = {labels}
preprocessing = {{ resize = 64, crop = 64 }}
"""


def cnn() -> nn.Module:
    """A factory as an operator would write it."""
    return architecture("resnet18")


def vit() -> nn.Module:
    """Another one, of a model without a spatial layer."""
    return small_vit().module


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    file = tmp_path_factory.mktemp("models") / "models.toml"
    file.write_text(MODELS.format(module=__name__, labels=[str(number) for number in range(10)]))
    return load_catalogue(file)


def two_halves() -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (0, 32, 64, 64))
    return image


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def rows_of(worker: WorkerContext, images: dict[str, bytes], methods: Sequence[Any], **request: Any) -> list[Row]:
    """Plan and process a job of one shard."""
    items = [{"id": name, "image": upload(worker.storage, data)} for name, data in images.items()]
    asked = [{"name": method} if isinstance(method, str) else method for method in methods]
    job = accept(worker.storage, shard_items=16, items=items, methods=asked, **request)
    plan(ControlContext(worker.storage, worker.state, worker.dispatcher, worker.catalogue, worker.settings), job)
    process_shard(worker, job, 0)
    return list(records.load_rows(worker.storage, job, 0))


def outcomes(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Of each item and method: "succeeded", or the code of the error."""
    return {(row.item, row.method): row.error.type.rsplit("/", 1)[1] if row.error else row.status for row in rows}


def test_pixels_that_are_not_numbers_fail_their_image_alone(worker: WorkerContext) -> None:
    bad = {"nan": np.nan, "infinite": np.inf, "finite, of no stated range": 0.5}
    images = {name: encoded(Image.fromarray(np.full((8, 8), value, np.float32)), "TIFF") for name, value in bad.items()}
    images["cut off"] = photo("coffee.png")[:100_000]

    rows = rows_of(worker, {**images, "good": noise(1)}, ["saliency", "grad_cam"])

    assert outcomes(rows) == {
        (name, method): "succeeded" if name == "good" else "image_unreadable"
        for name in (*images, "good")
        for method in ("saliency", "grad_cam")
    }
    assert {row.error.detail for row in rows if row.error and row.item in bad} == {
        "a TIFF with floating-point 32-bit samples, which have no stated range, is not read"
    }


def test_a_photo_smaller_than_a_segment_fails_lime_alone(worker: WorkerContext) -> None:
    lime = {"name": "lime", "params": {"segmentation": "quickshift", "samples": 10}}
    photos = {"spot": encoded(SPOT, "PNG"), "good": encoded(two_halves(), "PNG")}

    rows = rows_of(worker, photos, [lime, "saliency"], model="digits_vit")

    assert outcomes(rows) == {
        ("spot", "lime"): "image_unsuitable",
        ("spot", "saliency"): "succeeded",
        ("good", "lime"): "succeeded",
        ("good", "saliency"): "succeeded",
    }
    (detail,) = (row.error.detail for row in rows if row.error)
    assert "found one in the 32 x 32 pixels that the model sees; the segmentation 'grid' always" in detail


@pytest.mark.parametrize("segmentation", ["quickshift", "slic", "grid"])
def test_a_photo_of_one_pixel_is_cut_into_segments_that_hide_nothing_and_so_its_map_is_blank(
    worker: WorkerContext, segmentation: str
) -> None:
    lime = {"name": "lime", "params": {"segmentation": segmentation, "samples": 10}}

    (row,) = rows_of(worker, {"spot": encoded(SPOT, "PNG")}, [lime])

    assert (row.status, row.verdict) == ("succeeded", "blank")
    assert row.checks["segments"] > 1


@pytest.mark.parametrize(
    ("model", "unsupported", "needs"),
    [
        ("own_cnn", "attention", "attention between all patches"),
        ("own_cnn", "attention_gradient", "attention between all patches"),
        ("own_vit", "grad_cam", "a spatial layer"),
    ],
)
def test_what_only_the_workers_know_of_a_model_fails_its_method_alone(
    worker: WorkerContext, model: str, unsupported: str, needs: str
) -> None:
    worker.catalogue.check_supported(model, unsupported)

    rows = rows_of(worker, {"one": noise(1), "two": noise(2)}, ["saliency", unsupported, "deep_lift"], model=model)

    assert outcomes(rows) == {
        (item, method): "unsupported_operation" if method == unsupported else "succeeded"
        for item in ("one", "two")
        for method in ("saliency", unsupported, "deep_lift")
    }
    (detail,) = {row.error.detail for row in rows if row.error}
    assert detail.startswith(f"{unsupported} needs {needs}, which {model} does not have")
