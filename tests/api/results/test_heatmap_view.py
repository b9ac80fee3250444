"""Heatmaps as pictures."""

import hashlib
import io
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from heatmill.jobs import records
from heatmill.jobs.parts import parts_of
from heatmill.jobs.planner import inline_items, store_plan
from heatmill.jobs.records import store_shard
from heatmill.schemas import Item, ItemRequest, Plan, Problem
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_api.results import heatmap_view as pictures
from tests.api.requests import body, commit, picture, preview, row, submit

GREEN = (0, 255, 0)
RED = (255, 0, 0)
BLUE = (0, 0, 255)


PHOTO = f"upload://{'a' * 64}"


def explained(client: FlaskClient, storage: S3Storage, *items: dict[str, Any]) -> JobId:
    """A job of one shard whose items each have a heatmap."""
    answer = client.post("/v1/jobs", json=body() | {"items": items})
    assert answer.json is not None, answer.text
    job = JobId("default", answer.json["id"])
    rows = [
        row(
            number,
            item=item.get("id", str(number)),
            heatmap=picture(storage, job, 0, f"{number:04}.saliency.1"),
            preview=preview(storage, job, GREEN),
        )
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
def test_a_heatmap_is_given_as_it_is_stored(client: FlaskClient, storage: S3Storage, item: str) -> None:
    from urllib.parse import quote

    job = explained(client, storage, {"id": item, "image": PHOTO})
    answer = get(client, job, quote(item))
    assert decoded(answer).mode == "P"
    assert answer.data == storage.get(keys.heatmap(job, 0, "0000.saliency.1"))


def test_an_item_without_an_id_is_called_by_its_position(client: FlaskClient, storage: S3Storage) -> None:
    job = explained(client, storage, {"image": PHOTO}, {"image": PHOTO})
    assert get(client, job, "1").status_code == 200


def test_a_size_scales_the_heatmap(client: FlaskClient, storage: S3Storage) -> None:
    shown = decoded(get(client, explained(client, storage, {"id": "a", "image": PHOTO}), "a", size=64)).convert("RGB")
    assert shown.size == (64, 64)
    assert (shown.getpixel((2, 32)), shown.getpixel((61, 32))) == (RED, BLUE)


def test_an_overlay_lies_over_the_photo(client: FlaskClient, storage: S3Storage) -> None:
    job = explained(client, storage, {"id": "a", "image": PHOTO})
    assert decoded(get(client, job, "a", overlay=0)).getpixel((10, 10)) == pytest.approx(GREEN, abs=2)
    assert decoded(get(client, job, "a", overlay=1, size=32)).getpixel((1, 1)) == RED
    half = decoded(get(client, job, "a", overlay=0.5)).getpixel((10, 10))
    assert isinstance(half, tuple)
    assert half == pytest.approx((127, 127, 0), abs=2)


def test_a_preview_is_given_as_it_is_stored(client: FlaskClient, storage: S3Storage) -> None:
    job = explained(client, storage, {"id": "a/b", "image": PHOTO})

    answer = client.get(f"/v1/jobs/{job.job}/results/a/b/saliency/preview.jpg")

    assert (answer.status_code, answer.content_type) == (200, "image/jpeg")
    assert hashlib.sha256(answer.data).hexdigest() == preview(storage, job, GREEN).sha256


def test_a_result_without_a_preview_says_why(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client)
    commit(storage, job, 0, row(0, heatmap=picture(storage, job, 0, "0000.saliency.1")))
    for answer in (
        get(client, job, "photo-0", overlay=0.5),
        client.get(f"/v1/jobs/{job.job}/results/photo-0/saliency/preview.jpg"),
    ):
        assert answer.status_code == 404
        assert "asked for none" in answer.text
    assert get(client, job, "photo-0").status_code == 200


@pytest.mark.parametrize("data", [b"", b"another and no preview", None])
def test_a_preview_that_is_damaged_or_gone_is_told(client: FlaskClient, storage: S3Storage, data: bytes | None) -> None:
    job = explained(client, storage, {"id": "a", "image": PHOTO})
    key = preview(storage, job, GREEN).key
    storage.put(key, data + bytes(2000)) if data is not None else storage.delete([key])

    answer = get(client, job, "a", overlay=0.5)

    assert answer.status_code == 404
    assert "damaged" in answer.text or "no longer stored" in answer.text


@pytest.mark.parametrize(
    "query", [{"overlay": 1.1}, {"overlay": "nan"}, {"size": 15}, {"size": 1025}, {"rank": -1}, {"alpha": 1}]
)
def test_a_parameter_out_of_bounds_is_refused(client: FlaskClient, query: dict[str, Any]) -> None:
    assert get(client, submit(client), "photo-0", **query).status_code == 422


def test_a_result_that_is_not_there_is_not_found(client: FlaskClient, storage: S3Storage) -> None:
    job = explained(client, storage, {"id": "a", "image": PHOTO})
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


def test_the_items_of_a_source_are_found_by_id_and_by_index(client: FlaskClient, storage: S3Storage) -> None:
    request = body() | {"items": None, "source": {"uri": "s3://photos/default/"}}
    answer = client.post("/v1/jobs", json=request)
    assert answer.json is not None
    job = JobId("default", answer.json["id"])
    size = 200
    for number in range(2):
        store_shard(storage, job, number, [Item(index=number * size, id=f"key-{number}", image=PHOTO)])
        shown = {"heatmap": picture(storage, job, number, "0000.saliency.1"), "preview": preview(storage, job, GREEN)}
        commit(storage, job, number, row(number * size, item=f"key-{number}", **shown))
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
