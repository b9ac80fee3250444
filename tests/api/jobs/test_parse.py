"""A job whose images come with it, as a form."""

import hashlib
import io
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from heatmill.jobs import records
from heatmill.schemas import ItemRequest
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from tests.api.requests import MODEL

REQUEST = {"model": MODEL, "methods": [{"name": "saliency"}]}


def post(client: FlaskClient, files: dict[str, bytes], request: Any = REQUEST, **headers: str) -> TestResponse:
    text = request if isinstance(request, str) else json.dumps(request)
    # Encoded by another library, since the test client would leave the temporary file of a large form open.
    parts: list[tuple[str, tuple[str | None, bytes]]] = [("request", (None, text.encode()))]
    parts += [("images", (name, data)) for name, data in files.items()]
    form = httpx.Request("POST", "http://test/", files=parts)
    return client.post("/v1/jobs", data=form.read(), content_type=form.headers["Content-Type"], headers=headers)


def items_of(storage: S3Storage, answer: TestResponse) -> tuple[ItemRequest, ...]:
    assert answer.status_code == 202, answer.text
    assert answer.json is not None
    items = records.load_request(storage, JobId("default", answer.json["id"])).request.items
    assert items is not None
    return items


def uri(data: bytes) -> str:
    return f"upload://{hashlib.sha256(data).hexdigest()}"


def test_each_file_is_an_item_called_by_its_name(client: FlaskClient, storage: S3Storage) -> None:
    items = items_of(storage, post(client, {"a.png": b"one", "b.png": b"two"}))
    assert [(item.id, item.image) for item in items] == [("a.png", uri(b"one")), ("b.png", uri(b"two"))]
    assert storage.get(keys.blob("default", uri(b"two").removeprefix("upload://"))) == b"two"


def test_items_may_name_files_of_the_form_beside_other_images(client: FlaskClient, storage: S3Storage) -> None:
    listed = [{"id": "x", "image": "a.png", "target": 3}, {"image": uri(b"elsewhere")}, {"image": "a.png"}]
    items = items_of(storage, post(client, {"a.png": b"one"}, REQUEST | {"items": listed}))
    assert [item.image for item in items] == [uri(b"one"), uri(b"elsewhere"), uri(b"one")]
    assert items[0].target == 3


def test_a_file_of_the_form_replaces_an_upload_that_went_wrong(client: FlaskClient, storage: S3Storage) -> None:
    blob = keys.blob("default", uri(b"genuine").removeprefix("upload://"))
    storage.put(blob, b"damaged")
    items_of(storage, post(client, {"a.png": b"genuine"}))
    assert storage.get(blob) == b"genuine"


def test_a_file_too_large_for_memory_is_stored_whole(client: FlaskClient, storage: S3Storage) -> None:
    client.application.config["MAX_CONTENT_LENGTH"] = 2_000_000
    data = bytes(range(256)) * 4000
    items_of(storage, post(client, {"big.png": data}))
    assert storage.get(keys.blob("default", hashlib.sha256(data).hexdigest())) == data


def test_the_request_may_be_a_file_of_the_form_too(client: FlaskClient) -> None:
    data = {
        "request": (io.BytesIO(json.dumps(REQUEST).encode()), "job.json", "application/json"),
        "images": [(io.BytesIO(b"one"), "a.png")],
    }
    assert client.post("/v1/jobs", data=data).status_code == 202


def test_a_form_with_a_key_can_be_sent_again(client: FlaskClient) -> None:
    first = post(client, {"a.png": b"one"}, **{"Idempotency-Key": "form"})
    again = post(client, {"a.png": b"one"}, **{"Idempotency-Key": "form"})
    other = post(client, {"a.png": b"other"}, **{"Idempotency-Key": "form"})
    assert first.json == again.json
    assert other.status_code == 422


def test_a_form_that_is_only_validated_or_refused_stores_no_image(client: FlaskClient, storage: S3Storage) -> None:
    assert post(client, {"a.png": b"unseen"}, REQUEST | {"validate_only": True}).status_code == 200
    assert post(client, {"a.png": b"unseen"}, REQUEST | {"model": "nothing"}).status_code == 422
    assert not storage.exists(keys.blob("default", uri(b"unseen").removeprefix("upload://")))


@pytest.mark.parametrize(
    ("files", "request_part", "status", "words"),
    [
        ({}, REQUEST, 422, "no files"),
        ({f"{number}.png": b"x" for number in range(65)}, REQUEST, 413, "65 images; the limit is 64"),
        ({f"{number}.png": b"x" for number in range(999)}, REQUEST, 413, "999 images; the limit is 64"),
        ({"a.png": b"x" * 200_001}, REQUEST, 413, "200,000 bytes"),
        ({"a.png": b"x"}, "{", 400, "not JSON"),
        ({"a.png": b"x"}, "[]", 422, "object"),
        ({"a.png": b"x"}, REQUEST | {"items": [{"image": uri(b"y")}]}, 422, "'a.png' of the form is used by no item"),
        ({"a.png": b"x"}, REQUEST | {"items": 5}, 422, "used by no item"),
        ({"a.png": b"x"}, REQUEST | {"items": [{"image": "a.png"}, {"image": "b.png"}]}, 422, "/items/1/image"),
    ],
)
def test_a_form_that_cannot_be_a_job_is_refused(
    client: FlaskClient, files: dict[str, bytes], request_part: Any, status: int, words: str
) -> None:
    answer = post(client, files, request_part)
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    assert words in answer.text


def test_a_file_whose_name_cannot_be_an_id_fails_alone(client: FlaskClient, storage: S3Storage) -> None:
    boundary, names = "edge", ("a.png", "new%0Aline.png", r"new\nline.png", "x" * 513)
    parts = [("request", json.dumps(REQUEST)), *(("images", name) for name in names)]
    data = "".join(
        f"--{boundary}\r\nContent-Disposition: form-data; name={kind}"
        + (f"; filename*=UTF-8''{quote(text, safe='%')}" if kind == "images" else "")
        + f"\r\n\r\n{text}\r\n"
        for kind, text in parts
    )
    content_type = f"multipart/form-data; boundary={boundary}"
    answer = client.post("/v1/jobs", data=f"{data}--{boundary}--\r\n".encode(), content_type=content_type)
    assert answer.status_code == 202, answer.text
    assert answer.json is not None
    items = records.load_shard(storage, JobId("default", answer.json["id"]), 0)
    failed = {item.id: item.error.detail for item in items if item.error}
    assert [item.id for item in items if not item.error] == ["a.png", r"new\nline.png"]
    assert list(failed) == [r"new\nline.png (2)", "..." + "x" * 480]
    assert "control characters" in failed[r"new\nline.png (2)"]


def form(client: FlaskClient, *parts: tuple[bytes, bytes]) -> TestResponse:
    """A form of these parts, each with what follows `form-data` in its header."""
    before = b"--edge\r\nContent-Disposition: form-data"
    data = b"".join(before + head + b"\r\n\r\n" + text + b"\r\n" for head, text in parts)
    return client.post("/v1/jobs", data=data + b"--edge--\r\n", content_type="multipart/form-data; boundary=edge")


IMAGE = (b'; name="images"; filename="a.png"', b"one")
JSON_PART = (b'; name="request"', json.dumps(REQUEST).encode())


@pytest.mark.parametrize(
    ("head", "pointer", "words"),
    [
        *(
            (f'; name="{name}"; filename="b.png"'.encode(), f"/{name}", f"part '{name}' is not known")
            for name in ("images[]", "image", "Images", "files")
        ),
        (b'; name="target"', "/target", "part 'target' is not known"),
        (b'; name="images"', "/images", "has no `filename`"),
        (b'; name="request"', "/request", "2 parts `request`"),
        (b'; name="request"; filename="job.json"', "/request", "2 parts `request`"),
        (b'; filename="b.png"', "", "has no name"),
        (b'; name="images"; filename=""', "/images/1", "file name is empty"),
    ],
)
def test_a_part_of_a_form_that_would_not_be_used_is_refused_by_name(
    client: FlaskClient, head: bytes, pointer: str, words: str
) -> None:
    answer = form(client, IMAGE, JSON_PART, (head, b"two"))
    assert answer.status_code == 422, answer.text
    assert answer.json is not None
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert words in answer.json["detail"]


def test_a_file_name_that_is_not_utf_8_is_refused_by_name(client: FlaskClient) -> None:
    answer = form(client, IMAGE, JSON_PART, (b'; name="images"; filename="caf\xe9.png"', b"two"))
    assert answer.status_code == 422, answer.text
    assert answer.json is not None
    assert "not UTF-8 characters" in answer.json["detail"]
    assert r'name="images"; filename="caf\xe9.png"' in answer.json["detail"]


def test_two_files_of_one_name_are_refused(client: FlaskClient) -> None:
    images = [(io.BytesIO(name.encode()), name) for name in ("a.png", "b.png", "A.png", "a.png")]
    answer = client.post("/v1/jobs", data={"request": json.dumps(REQUEST), "images": images})
    assert answer.status_code == 422
    assert answer.json is not None
    assert [error["pointer"] for error in answer.json["errors"]] == ["/images/0", "/images/3"]
    assert "'a.png'" in answer.json["detail"]


def test_a_form_without_its_request_is_refused(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", data={"images": [(io.BytesIO(b"one"), "a.png")]})
    assert answer.status_code == 422
    assert "`request`" in answer.text


@pytest.mark.parametrize("data", [b"", b"--x", b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n{'])
def test_a_broken_form_is_refused(client: FlaskClient, data: bytes) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/jobs", data=data, content_type=content_type)
        assert answer.status_code in {400, 413, 422}, answer.text
        assert answer.content_type == "application/problem+json"
