"""Heatmaps as pictures."""

import hashlib
import io
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image, ImageStat
from werkzeug.test import TestResponse

from heatmill import keys, records
from heatmill.jobs.parts import parts_of
from heatmill.keys import JobId
from heatmill.planning import inline_items, store_plan
from heatmill.records import store_shard
from heatmill.schemas import ImageRead, Item, ItemRequest, Plan, Problem
from heatmill.storage import S3Storage
from heatmill_api import pictures
from heatmill_api.services import Services
from tests.api.requests import body, commit, picture, png, row, submit, upload

GREEN = (0, 255, 0)
RED = (255, 0, 0)
BLUE = (0, 0, 255)


@pytest.fixture
def photo(storage: S3Storage) -> str:
    """The URI of a green photo."""
    return upload(storage, png(Image.new("RGB", (100, 100), GREEN)))


def explained(client: FlaskClient, storage: S3Storage, *items: dict[str, Any]) -> JobId:
    """A job of one shard whose items each have a heatmap."""
    answer = client.post("/v1/jobs", json=body() | {"items": items})
    assert answer.json is not None, answer.text
    job = JobId("default", answer.json["id"])
    rows = [
        row(number, item=item.get("id", str(number)), heatmap=picture(storage, job, 0, f"{number:04}.saliency.1"))
        for number, item in enumerate(items)
    ]
    commit(storage, job, 0, *rows)
    return job


def get(client: FlaskClient, job: JobId, item: str, **query: Any) -> TestResponse:
    return client.get(f"/v1/jobs/{job.job}/results/{item}/saliency/heatmap.png", query_string=query)


def decoded(answer: TestResponse) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return Image.open(io.BytesIO(answer.data))


@pytest.mark.parametrize(
    "item", ["a.png", "folder/a b.png", "a//b", "/a.png", "//a/", "ü+%?#.png", "heatmap.png", "x/saliency/heatmap.png"]
)
def test_a_heatmap_is_given_as_it_is_stored(client: FlaskClient, storage: S3Storage, photo: str, item: str) -> None:
    from urllib.parse import quote

    job = explained(client, storage, {"id": item, "image": photo})
    answer = get(client, job, quote(item))
    assert decoded(answer).mode == "P"
    assert answer.data == storage.get(keys.heatmap(job, 0, "0000.saliency.1"))


def test_an_item_without_an_id_is_called_by_its_position(client: FlaskClient, storage: S3Storage, photo: str) -> None:
    job = explained(client, storage, {"image": photo}, {"image": photo})
    assert get(client, job, "1").status_code == 200


def test_a_size_scales_the_heatmap(client: FlaskClient, storage: S3Storage, photo: str) -> None:
    shown = decoded(get(client, explained(client, storage, {"id": "a", "image": photo}), "a", size=64)).convert("RGB")
    assert shown.size == (64, 64)
    assert (shown.getpixel((2, 32)), shown.getpixel((61, 32))) == (RED, BLUE)


def test_an_overlay_lies_over_the_photo(client: FlaskClient, storage: S3Storage, photo: str) -> None:
    job = explained(client, storage, {"id": "a", "image": photo})
    assert decoded(get(client, job, "a", overlay=0)).getpixel((10, 10)) == GREEN
    assert decoded(get(client, job, "a", overlay=1, size=32)).getpixel((1, 1)) == RED
    half = decoded(get(client, job, "a", overlay=0.5)).getpixel((10, 10))
    assert isinstance(half, tuple)
    assert half == pytest.approx((127, 127, 0), abs=1)


def test_a_photo_is_shown_as_the_workers_decode_it(client: FlaskClient, storage: S3Storage) -> None:
    transparent = upload(storage, png(Image.new("RGBA", (100, 100), (0, 0, 0, 0))))
    job = explained(client, storage, {"id": "a", "image": transparent})
    assert decoded(get(client, job, "a", overlay=0)).getpixel((10, 10)) == (255, 255, 255)


@pytest.mark.parametrize(
    "query", [{"overlay": 1.1}, {"overlay": "nan"}, {"size": 15}, {"size": 1025}, {"rank": -1}, {"alpha": 1}]
)
def test_a_parameter_out_of_bounds_is_refused(client: FlaskClient, query: dict[str, Any]) -> None:
    assert get(client, submit(client), "photo-0", **query).status_code == 422


def test_a_result_that_is_not_there_is_not_found(client: FlaskClient, storage: S3Storage, photo: str) -> None:
    job = explained(client, storage, {"id": "a", "image": photo})
    for answer in (
        get(client, job, "b"),
        get(client, job, "a", rank=1),
        get(client, job, "a", index=7),
        get(client, submit(client), "photo-0"),
        client.get(f"/v1/jobs/{job.job}/results/a/grad_cam/heatmap.png"),
    ):
        assert answer.status_code == 404
        assert answer.json is not None
        assert answer.json["type"].endswith("/result_not_found")


def test_a_failed_result_says_why_it_has_no_heatmap(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client)
    problem = Problem(type="x", title="Image unreadable", detail="the file is cut off at byte 7")
    commit(storage, job, 0, row(0, status="failed", target=None, error=problem))
    answer = get(client, job, "photo-0")
    assert answer.status_code == 404
    assert "cut off at byte 7" in answer.text


def test_the_items_of_a_source_are_found_by_id_and_by_index(
    client: FlaskClient, storage: S3Storage, photo: str
) -> None:
    request = body() | {"items": None, "source": {"uri": "s3://photos/default/"}}
    answer = client.post("/v1/jobs", json=request)
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    size = 200
    for number in range(2):
        store_shard(storage, job, number, [Item(index=number * size, id=f"key-{number}", image=photo)])
        heatmap = picture(storage, job, number, "0000.saliency.1")
        commit(storage, job, number, row(number * size, item=f"key-{number}", heatmap=heatmap))
    store_plan(storage, job, Plan(shards=2, items=2, results=2, model="m", methods=(), top_k=1))
    assert get(client, job, "key-1").status_code == 200
    assert decoded(get(client, job, "key-1", overlay=0.0)).size == (448, 448)
    assert get(client, job, "key-1", index=size).status_code == 200
    assert get(client, job, "key-1", index=0).status_code == 404


def test_the_search_for_an_item_ends_and_asks_for_its_index(
    client: FlaskClient, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_SEARCHED", 2)
    answer = client.post("/v1/jobs", json=body() | {"items": None, "source": {"uri": "s3://photos/default/"}})
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    size = records.load_request(storage, job).shard_items
    for number in range(3):
        heatmap = picture(storage, job, number, "0000.saliency.1")
        commit(storage, job, number, row(number * size, item=f"key-{number}", heatmap=heatmap))
    assert get(client, job, "key-1").status_code == 200
    late = get(client, job, "key-2")
    assert late.status_code == 404
    assert "first 2 shards; give the row's `index`" in late.text
    assert get(client, job, "key-2", index=2 * size).status_code == 200


@pytest.mark.parametrize("data", [b"not a picture", b"\x89PNG\r\n\x1a\n", b""])
def test_a_photo_that_is_not_what_it_was_is_not_found(
    client: FlaskClient, services: Services, storage: S3Storage, data: bytes
) -> None:
    job = explained(client, storage, {"id": "a", "image": upload(storage, data)})
    answer = get(client, job, "a", overlay=0.5)
    assert answer.status_code == 404
    assert "photo" in answer.text


@pytest.mark.parametrize(("known", "status"), [("now", 200), ("before", 404), (None, 200)])
def test_a_heatmap_is_laid_over_the_photo_that_was_explained_and_no_other(
    client: FlaskClient, storage: S3Storage, known: str | None, status: int
) -> None:
    data = png(Image.new("RGB", (100, 100), GREEN))
    digests = {"now": hashlib.sha256(data).hexdigest(), "before": 64 * "b", None: None}
    answer = client.post("/v1/jobs", json=body() | {"items": [{"id": "a", "image": upload(storage, data)}]})
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    read = ImageRead(format="PNG", size=(100, 100), sha256=digests[known])
    commit(storage, job, 0, row(0, item="a", image=read, heatmap=picture(storage, job, 0, "0000.saliency.1")))

    assert get(client, job, "a").status_code == 200
    for overlay in (0, 0.5):
        shown = get(client, job, "a", overlay=overlay)
        assert shown.status_code == status
        assert (b"is not what it was when it was explained" in shown.data) == (status == 404)


def test_a_photo_of_more_pixels_than_the_limit_is_shown_reduced(client: FlaskClient, storage: S3Storage) -> None:
    image = Image.new("RGB", (9000, 9000), RED)
    image.paste(GREEN, (6000, 6000, 8000, 8000))
    file = io.BytesIO()
    image.save(file, "JPEG")
    answer = client.post("/v1/jobs", json=body() | {"items": [{"id": "a", "image": upload(storage, file.getvalue())}]})
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    stored = picture(storage, job, 0, "0000.saliency.1").model_copy(update={"box": (6000, 6000, 8000, 8000)})
    commit(storage, job, 0, row(0, item="a", heatmap=stored))

    shown = decoded(get(client, job, "a", overlay=0.0)).convert("RGB")

    inner = shown.crop((8, 8, 440, 440))
    assert all(
        low >= wanted - 8 and high <= wanted + 8
        for (low, high), wanted in zip(ImageStat.Stat(inner).extrema, GREEN, strict=True)
    )


def test_a_reduced_photo_that_is_turned_lies_where_it_was_stored(client: FlaskClient, storage: S3Storage) -> None:
    """Of 905 stored pixels the decoder makes 114 columns of 8, the last of which is the first once it is turned."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 3
    image = Image.new("RGB", (905, 905), GREEN)
    image.paste(RED, (0, 0, 101, 905))
    image.save(file, "JPEG", exif=exif, quality=95)
    answer = client.post("/v1/jobs", json=body() | {"items": [{"id": "a", "image": upload(storage, file.getvalue())}]})
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    stored = picture(storage, job, 0, "0000.saliency.1").model_copy(update={"box": (792, 0, 816, 24)})
    commit(storage, job, 0, row(0, item="a", heatmap=stored))

    shown = decoded(get(client, job, "a", overlay=0.0, size=48)).convert("RGB")

    # The edge lies at 905 - 101 = 804, in the middle of the region.
    reds = sum(shown.crop((0, 24, 48, 25)).getchannel("R").histogram()[128:])
    assert reds == pytest.approx(24, abs=2)


def test_a_photo_over_the_limits_is_not_decoded(client: FlaskClient, services: Services, storage: S3Storage) -> None:
    job = explained(client, storage, {"id": "a", "image": upload(storage, png(Image.new("L", (8000, 8000))))})
    answer = get(client, job, "a", overlay=0.5)
    assert answer.status_code == 404
    assert "8000 x 8000" in answer.text


def test_a_photo_that_is_gone_is_not_found(client: FlaskClient, storage: S3Storage) -> None:
    job = explained(client, storage, {"id": "a", "image": f"upload://{'c' * 64}"})
    assert get(client, job, "a").status_code == 200
    assert get(client, job, "a", overlay=0.5).status_code == 404


def test_positions_agree_with_the_planner() -> None:
    requests = [ItemRequest(id=None, image="x"), ItemRequest(id="named", image="y")]
    assert [item.id for item in inline_items(requests)(None)] == ["0", "named"]


def test_a_heatmap_is_found_in_the_part_of_its_shard(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=3)
    for part in parts_of(3)[:2]:
        heatmap = picture(storage, job, 0, f"{part.number:04}.saliency.1")
        commit(storage, job, 0, row(part.number, heatmap=heatmap), part=part)
    assert [get(client, job, f"photo-{index}").status_code for index in range(3)] == [200, 200, 404]
    assert get(client, job, "photo-1", index=1).status_code == 200
