"""Each row that succeeded tells how its image was read, whether it was made, taken from the cache or put on a map."""

import hashlib
import io

import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatmill.catalogue.models import Preprocessing
from heatmill.images import ImageLimits, decode_reduced
from heatmill.schemas import ImageRead
from heatmill.storage import keys
from heatmill_workers.control.finish import finish
from heatmill_workers.models.preprocessing import least_side
from heatmill_workers.shard.context import WorkerContext
from tests.workers.photos import noise
from tests.workers.processed import control_of, origins, rows_of, submitted

PAGES = "page 1 of 2 was read; the other pages are left out"
DAMAGED = "the file is damaged; the decoder's warning: "


def two_pages() -> bytes:
    file = io.BytesIO()
    page = Image.open(io.BytesIO(noise(1)))
    page.save(file, "TIFF", save_all=True, append_images=[page.rotate(180)])
    return file.getvalue()


def damaged() -> bytes:
    data = bytearray(noise(2, (640, 480), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\x55" * 2000
    return bytes(data)


IMAGES = {"pages": two_pages(), "damaged": damaged(), "plain": noise(3), "text": b"no image"}
DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in IMAGES.items()}
READ = {
    "pages": ImageRead(format="TIFF", size=(64, 48), notes=(PAGES,), sha256=DIGESTS["pages"]),
    "plain": ImageRead(format="PNG", size=(64, 48), sha256=DIGESTS["plain"]),
    "text": None,
}


def reads(worker: WorkerContext, job: keys.JobId) -> dict[str, ImageRead | None]:
    """By item; the same in all of its rows."""
    rows = rows_of(worker, job)
    found = {row.item: row.image for row in rows}
    assert all(row.image == found[row.item] for row in rows)
    return found


def test_rows_tell_how_their_image_was_read_and_so_do_those_from_the_cache(worker: WorkerContext, tenant: str) -> None:
    methods = [{"name": "saliency"}, {"name": "attention"}]
    first = submitted(worker, tenant, IMAGES, methods=methods)
    second = submitted(worker, tenant, {name: IMAGES[name] for name in ("damaged", "pages", "plain")}, methods=methods)

    made, taken = reads(worker, first), reads(worker, second)

    assert {name: made[name] for name in READ} == READ
    assert made["damaged"] is not None
    assert made["damaged"].notes[0].startswith(DAMAGED)
    # Of a small model's input, even this photo is decoded to a fraction.
    assert made["damaged"].size == (640, 480)
    assert origins(worker, second) == {first.job}
    assert taken == {name: made[name] for name in taken}


def test_a_point_of_a_map_tells_it_too(worker: WorkerContext, tenant: str) -> None:
    many = {**IMAGES, **{f"{seed}": noise(seed) for seed in range(4, 8)}}
    job = submitted(worker, tenant, many, methods=[], map={"method": "tsne", "perplexity": 2})

    assert {name: read for name, read in reads(worker, job).items() if name in READ} == READ


def test_the_table_of_results_has_it_in_columns(worker: WorkerContext, tenant: str) -> None:
    job = submitted(worker, tenant, IMAGES, methods=[{"name": "saliency"}])
    finish(control_of(worker), job)

    rows = pq.read_table(io.BytesIO(worker.storage.get(keys.table(job, 0)))).to_pylist()
    told = {row["item"]: [value for name, value in row.items() if name.startswith("image_")] for row in rows}

    assert told["pages"] == ["TIFF", 64, 48, 1, [PAGES], DIGESTS["pages"]]
    assert told["plain"] == ["PNG", 64, 48, 1, [], DIGESTS["plain"]]
    assert told["text"] == [None] * 6


@pytest.mark.parametrize(("reduces", "by"), [(True, 4), (False, 1)])
def test_reduced_decoding_can_be_switched_off(reduces: bool, by: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3000, 2100)).save(file, "JPEG")
    preprocessing = Preprocessing(reduced_decoding=reduces)

    photo = decode_reduced(file.getvalue(), ImageLimits(10**8, 10**8), least_side(preprocessing))

    assert photo.reduced_by == by
    assert bool(photo.notes) == reduces
