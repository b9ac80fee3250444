"""Presigned uploads."""

import hashlib
from typing import Any

import httpx
import pytest
from flask.testing import FlaskClient

from heatmill.schemas.image_types import IMAGE_TYPES
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from tests.api.requests import answered


def image(data: bytes, content_type: str = "image/png") -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "content_type": content_type}


def put(target: dict[str, Any], data: bytes, **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as http:
        return http.put(target["url"], content=data, headers=target["headers"] | headers)


def ask(client: FlaskClient, body: dict[str, Any]) -> dict[str, Any]:
    return answered(client.post("/v1/uploads", json=body))


def test_an_image_goes_where_the_answer_says_and_is_known_from_then_on(client: FlaskClient, storage: S3Storage) -> None:
    data = b"a new picture"
    target = ask(client, image(data))
    assert not target["stored"]
    assert target["expires_in"] > 0
    assert put(target, data).status_code == 200
    assert storage.get(keys.blob("default", target["sha256"])) == data
    again = ask(client, image(data))
    assert (again["stored"], again["url"], again["uri"]) == (True, None, f"upload://{target['sha256']}")


@pytest.mark.parametrize("content_type", sorted({*IMAGE_TYPES.values(), "application/octet-stream"}))
def test_every_kind_of_image_is_taken(client: FlaskClient, content_type: str) -> None:
    assert ask(client, image(content_type.encode(), content_type))["url"]


def test_many_images_are_answered_in_their_order(client: FlaskClient) -> None:
    images = [image(str(number).encode()) for number in range(20)]
    uploads = ask(client, {"images": images})["uploads"]
    assert [upload["sha256"] for upload in uploads] == [one["sha256"] for one in images]


def test_an_upload_of_another_size_is_not_taken_for_the_image(client: FlaskClient, storage: S3Storage) -> None:
    data = b"whole"
    storage.put(keys.blob("default", image(data)["sha256"]), b"who")
    assert not ask(client, image(data))["stored"]


def test_the_url_takes_no_other_size_and_no_other_type(client: FlaskClient) -> None:
    target = ask(client, image(b"exactly this"))
    assert put(target, b"something longer", **{"Content-Length": "16"}).status_code == 403
    assert put(target, b"exactly this", **{"Content-Type": "text/html"}).status_code == 403


def test_a_single_image_over_the_limit_is_refused_by_name(client: FlaskClient) -> None:
    large = image(b"x") | {"size": 10**9}
    answer = client.post("/v1/uploads", json=large)
    assert answer.status_code == 413
    assert large["sha256"] in answer.text


def test_an_image_over_the_limit_does_not_keep_the_others_out(client: FlaskClient) -> None:
    good, bad, last = ask(client, {"images": [image(b"y"), image(b"x") | {"size": 10**9}, image(b"z")]})["uploads"]
    assert good["url"]
    assert last["url"]
    assert (bad["stored"], bad["url"]) == (False, None)
    assert bad["error"]["type"].endswith("/image_too_large")
    assert "1,000,000,000 bytes; the limit is 52,428,800" in bad["error"]["detail"]


def test_an_empty_file_goes_where_the_answer_says(client: FlaskClient, storage: S3Storage) -> None:
    target = ask(client, image(b""))
    assert put(target, b"").status_code == 200
    assert storage.get(keys.blob("default", target["sha256"])) == b""
    assert ask(client, image(b""))["stored"]


def test_other_bytes_of_the_same_size_are_not_taken(client: FlaskClient, storage: S3Storage) -> None:
    target = ask(client, image(b"the photo"))
    assert put(target, b"something").status_code == 400
    assert not storage.exists(keys.blob("default", target["sha256"]))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"images": []}, "/images"),
        ({"images": [image(b"x")] * 1001}, "/images"),
        ({"images": [image(b"x"), image(b"x", "text/html")]}, "/images/1/content_type"),
        (image(b"x") | {"sha256": "A" * 64}, "/sha256"),
        (image(b"x") | {"size": -1}, "/size"),
        (image(b"x") | {"size": 1.5}, "/size"),
        (image(b"x") | {"size": True}, "/size"),
        (image(b"x") | {"images": []}, "/sha256"),
        ({}, "/sha256"),
    ],
)
def test_a_wrong_request_is_refused_with_the_place(client: FlaskClient, body: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/uploads", json=body)
    assert answer.status_code == 422
    assert answer.json is not None
    assert pointer in [error["pointer"] for error in answer.json["errors"]]
