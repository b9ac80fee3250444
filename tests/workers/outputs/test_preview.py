"""What the model saw is kept beside the results, once for each image, and nobody has to decode a photo to show it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageStat

from heatmill.images import ImageLimits, decode_reduced
from heatmill.jobs.parts import parts_of
from heatmill.schemas import Row
from heatmill.storage import keys
from heatmill_workers.outputs.preview import preview
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import upload
from tests.workers.photos import noise
from tests.workers.processed import counted, planned, planned_fresh, rows_of, submitted

GREEN, RED = (0, 255, 0), (255, 0, 0)
LIMITS = ImageLimits(2**26, 50_000_000)
METHODS = [{"name": "saliency"}, {"name": "attention"}]
OF_A_CNN = [{"name": "saliency"}, {"name": "grad_cam"}]


def shown(worker: WorkerContext, row: Row) -> Image.Image:
    """A row's preview."""
    assert row.preview
    picture = Image.open(io.BytesIO(worker.storage.get_part(row.preview.key, row.preview.range)))
    assert (picture.format, picture.size) == ("JPEG", row.preview.size)
    return picture.convert("RGB")


def coloured(*sides: tuple[int, int, int]) -> bytes:
    """Stripes from left to right, in the middle of which a model looks."""
    image = Image.new("RGB", (60 * len(sides), 60))
    for place, colour in enumerate(sides):
        image.paste(colour, (60 * place, 0, 60 * place + 60, 60))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("layout", ["objects", "webdataset"])
def test_each_image_has_one_preview_of_what_the_model_saw(worker: WorkerContext, layout: str) -> None:
    colours = [GREEN, RED, (0, 0, 255)]
    items = [{"image": upload(worker.storage, coloured((9, 9, 9), colour, (9, 9, 9)))} for colour in colours]
    job = planned_fresh(worker, items=items, methods=OF_A_CNN, layout=layout)
    process_shard(worker, job, 0)

    rows = rows_of(worker, job)
    assert len(rows) == 6
    for row in rows:
        middle = shown(worker, row).getpixel((shown(worker, row).width // 2, shown(worker, row).height // 2))
        assert middle == pytest.approx(colours[row.index], abs=4)
    assert len({(row.preview.key, row.preview.range) for row in rows if row.preview}) == 3
    stored = [entry.key for entry in worker.storage.list(f"{job.prefix}previews/")]
    assert len(stored) == (len(parts_of(3)) if layout == "objects" else 0)


def test_a_job_may_ask_for_none(worker: WorkerContext) -> None:
    items = [{"image": upload(worker.storage, noise(1))}]
    job = planned_fresh(worker, items=items, previews=False)
    process_shard(worker, job, 0)

    assert [row.preview for row in rows_of(worker, job)] == [None] * len(rows_of(worker, job))
    assert not list(worker.storage.list(f"{job.prefix}previews/"))


def test_an_image_that_failed_has_none_and_those_beside_it_have_theirs(worker: WorkerContext) -> None:
    items = [{"image": upload(worker.storage, data)} for data in (noise(1), b"no image", noise(2))]
    job = planned_fresh(worker, items=items, methods=METHODS[:1])
    process_shard(worker, job, 0)

    assert [row.preview is not None for row in rows_of(worker, job)] == [True, False, True]


@pytest.mark.parametrize("layout", ["objects", "webdataset"])
@pytest.mark.parametrize(("before", "gone"), [(True, False), (True, True), (False, False)])
def test_results_from_the_cache_have_previews_of_their_own_job(
    worker: WorkerContext, tenant: str, layout: str, before: bool, gone: bool
) -> None:
    images = {f"photo {seed}": noise(seed) for seed in range(3)}
    first = submitted(worker, tenant, images, methods=METHODS, previews=before)
    if gone:
        worker.storage.delete(entry.key for entry in worker.storage.list(f"{first.prefix}previews/"))

    second = planned(worker, tenant, images, methods=METHODS, layout=layout)
    with counted() as calls:
        process_shard(worker, second, 0)

    assert not calls, "no forward pass is needed for it"
    for row in rows_of(worker, second):
        assert shown(worker, row).size[0] >= 8
        assert row.preview
        assert row.preview.key.startswith(second.prefix)


def test_a_part_that_another_worker_did_otherwise_keeps_its_own_previews(worker: WorkerContext) -> None:
    """Rows name byte ranges: an object that is written again with others must not stand in their place."""
    items = [{"image": upload(worker.storage, noise(seed))} for seed in range(2)]
    job = planned_fresh(worker, items=items, methods=METHODS[:1])
    process_shard(worker, job, 0)
    rows = rows_of(worker, job)
    assert all(row.preview for row in rows)
    other = keys.previews(job, 0, 0, "f" * 64)
    worker.storage.put(other, b"made by another version")

    assert all(shown(worker, row).size for row in rows)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def test_of_a_photo_that_is_read_reduced_the_region_is_the_same() -> None:
    image = Image.new("RGB", (9000, 9000), RED)
    image.paste(GREEN, (6000, 6000, 8000, 8000))
    photo = decode_reduced(jpeg(image), LIMITS, 512)
    assert photo.reduced_by > 1

    made = preview(photo, (6000, 6000, 8000, 8000), (224, 224))

    picture = Image.open(io.BytesIO(made.jpeg)).convert("RGB")
    inner = picture.crop((8, 8, picture.width - 8, picture.height - 8))
    for (low, high), wanted in zip(ImageStat.Stat(inner).extrema, GREEN, strict=True):
        assert wanted - 12 <= low <= high <= wanted + 12


def test_a_reduced_photo_that_is_turned_lies_where_it_was_stored() -> None:
    """Of 905 stored pixels the decoder makes 114 columns of 8, the last of which is the first once it is turned."""
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.new("RGB", (905, 905), GREEN)
    image.paste(RED, (0, 0, 101, 905))
    photo = decode_reduced(jpeg(image, exif=exif), LIMITS, 64)
    assert photo.reduced_by == 8

    made = preview(photo, (405, 0, 905, 500), (48, 48))

    # The edge lies at 905 - 101 = 804, at four fifths of the region.
    line = np.asarray(Image.open(io.BytesIO(made.jpeg)).convert("RGB"))[10]
    edge = int((line[:, 0] < 128).sum()) / len(line)
    assert edge == pytest.approx((804 - 405) / 500, abs=1.5 / len(line))


@pytest.mark.parametrize(
    ("size", "box", "input_size", "wanted"),
    [
        ((640, 480), (80, 0, 560, 480), (224, 224), (480, 480)),
        ((3000, 2000), (500, 0, 2500, 2000), (224, 224), (512, 512)),
        ((640, 480), (0, 0, 640, 480), (200, 400), (512, 256)),
        ((8, 8), (0, 0, 8, 8), (28, 28), (8, 8)),
        ((1, 1), (0, 0, 1, 1), (224, 224), (1, 1)),
        ((100, 10), (-10, -55, 110, 65), (224, 224), (120, 120)),
    ],
)
def test_a_preview_has_the_shape_of_the_input_and_is_not_larger_than_what_was_read(
    size: tuple[int, int], box: tuple[float, float, float, float], input_size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, GREEN).save(file, "PNG")
    assert preview(decode_reduced(file.getvalue(), LIMITS, 4000), box, input_size).size == wanted
