"""What a request may ask for, and how a refusal names the place and the way out."""

import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.requests import SHA, body

UPLOADED = f"upload://{SHA}"


def refusal(client: FlaskClient, request: dict[str, Any]) -> tuple[str, str, str]:
    """Code, first pointer and first detail of a refused request."""
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 422, answer.text
    assert answer.json is not None
    first = answer.json["errors"][0]
    return answer.json["type"].rsplit("/", 1)[1], first["pointer"], first["detail"]


@pytest.mark.parametrize(
    ("change", "code", "pointer", "words"),
    [
        ({"model": "resnet81"}, "unknown_model", "/model", "resnet18"),
        ({"methods": [{"name": "salience"}]}, "unknown_method", "/methods/0/name", "saliency"),
        (
            {"model": "vit_b_16", "methods": [{"name": "saliency"}, {"name": "grad_cam"}]},
            "method_not_supported",
            "/methods/1/name",
            "spatial layer",
        ),
        (
            {"methods": [{"name": "integrated_gradients", "params": {"steps": 0}}]},
            "invalid_request",
            "/methods/0/params/steps",
            "steps",
        ),
        (
            {"methods": [{"name": "integrated_gradients", "params": {"step": 5}}]},
            "invalid_request",
            "/methods/0/params/step",
            "steps",
        ),
        (
            {"methods": [{"name": "deep_shap", "params": {"background": ["blur", "s3://elsewhere/1.png"]}}]},
            "invalid_request",
            "/methods/0/params/background/1",
            "not an allowed source",
        ),
        (
            {"methods": [{"name": "gradient_shap", "params": {"background": ["mean"] * 101}}]},
            "invalid_request",
            "/methods/0/params/background",
            "too long",
        ),
        ({"items": [{"image": UPLOADED, "target": "expresso"}]}, "invalid_request", "/items/0/target", "espresso"),
        ({"items": [{"image": UPLOADED, "target": 1000}]}, "invalid_request", "/items/0/target", "999"),
        ({"items": [{"image": UPLOADED, "target": -1}]}, "invalid_request", "/items/0/target", "0"),
        ({"items": [{"image": UPLOADED, "target": True}]}, "invalid_request", "/items/0/target", ""),
        (
            {"items": [{"image": UPLOADED, "id": "1"}, {"image": UPLOADED}]},
            "invalid_request",
            "/items/1/id",
            "item 0",
        ),
        ({"priority": "interactive"} | {"items": [{"image": UPLOADED}] * 17}, "invalid_request", "/priority", "16"),
        (
            {"priority": "interactive", "items": None, "source": {"uri": "s3://photos/default/a/"}},
            "invalid_request",
            "/priority",
            "16",
        ),
        ({"items": None}, "invalid_request", "", "`items` or `source`"),
        ({"items": []}, "invalid_request", "/items", ""),
        ({"top_k": 11}, "invalid_request", "/top_k", "10"),
        ({"methods": [{"name": "saliency"}] * 2}, "invalid_request", "", "saliency"),
        ({"modle": "x"}, "invalid_request", "/modle", "unknown field"),
        ({"items": [{"id": "x"}]}, "invalid_request", "/items/0/image", "required"),
        (
            {"methods": [{"name": "saliency"}, {"name": "lime", "params": {"hide": "x" * 70_000}}]},
            "invalid_request",
            "/methods",
            "65,536",
        ),
        ({"metadata": {"a/b~c": 5}}, "invalid_request", "/metadata/a~1b~0c", "string"),
    ],
)
def test_a_refusal_points_at_the_fault_and_names_what_there_is(
    client: FlaskClient, change: dict[str, Any], code: str, pointer: str, words: str
) -> None:
    found = refusal(client, body() | change)
    assert found[:2] == (code, pointer)
    assert words in found[2]


@pytest.mark.parametrize("uri", ["s3://photos/default/a.png", UPLOADED])
def test_an_image_that_the_tenant_may_read_is_accepted(client: FlaskClient, uri: str) -> None:
    assert client.post("/v1/jobs", json=body() | {"items": [{"image": uri}]}).status_code == 202


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/a.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "/etc/passwd",
        "cat.jpg",
        f"upload://{SHA[:-1]}",
        f"upload://{SHA.upper()}",
        f"{UPLOADED}/../x",
        f"{UPLOADED}\n",
        "s3://photos/other/a.png",
        "s3://photos/default",
        "s3://photos/defaulter/a.png",
        "s3://photos/default/../other/a.png",
        "s3://photos/default/..",
        "s3://photos/default/folder/",
        "s3://PHOTOS/default/a.png",
        "s3://other/default/a.png",
        "S3://photos/default/a.png",
        "s3:///default/a.png",
    ],
)
def test_an_image_from_anywhere_else_is_refused(client: FlaskClient, uri: str) -> None:
    code, pointer, _ = refusal(client, body() | {"items": [{"image": uri}]})
    assert (code, pointer) == ("invalid_request", "/items/0/image")


def test_the_refusal_of_an_image_says_what_is_accepted(client: FlaskClient) -> None:
    detail = refusal(client, body() | {"items": [{"image": "https://example.org/a.png"}]})[2]
    assert "upload://<sha256>" in detail
    assert "s3://" in detail


def test_heatmills_own_bucket_is_never_a_source(client: FlaskClient, bucket: str) -> None:
    for request in (
        {"items": [{"image": f"s3://{bucket}/other/blobs/x"}]},
        {"items": None, "source": {"uri": f"s3://{bucket}/other/"}},
    ):
        assert refusal(client, body() | request)[0] == "invalid_request"


@pytest.mark.parametrize("uri", ["s3://photos/default/", "s3://photos/default/list.jsonl"])
def test_a_source_below_an_allowed_prefix_is_accepted(client: FlaskClient, uri: str) -> None:
    answer = client.post("/v1/jobs", json=body() | {"items": None, "source": {"uri": uri}})
    assert answer.status_code == 202, answer.text
    assert answer.json is not None
    assert (answer.json["priority"], answer.json["counts"]["total"]) == ("normal", None)


@pytest.mark.parametrize("uri", ["s3://photos/", "s3://photos/other/", "s3://photos/default/../", "https://x/y"])
def test_a_source_from_anywhere_else_is_refused(client: FlaskClient, uri: str) -> None:
    _, pointer, _ = refusal(client, body() | {"items": None, "source": {"uri": uri}})
    assert pointer == "/source/uri"


def test_every_faulty_item_is_named_up_to_a_hundred(client: FlaskClient) -> None:
    items = [{"id": str(number), "image": "ftp://x"} for number in range(150)]
    answer = client.post("/v1/jobs", json=body() | {"items": items})
    assert answer.json is not None
    assert [error["pointer"] for error in answer.json["errors"]] == [f"/items/{number}/image" for number in range(100)]
    assert "99 more" in answer.json["detail"]


def test_a_refusal_does_not_repeat_a_large_request(client: FlaskClient) -> None:
    params = {"steps": ["x" * 50_000], "y" * 50_000: 1}
    answer = client.post("/v1/jobs", json=body() | {"methods": [{"name": "integrated_gradients", "params": params}]})
    assert answer.status_code == 422
    assert len(answer.data) < 10_000


def test_ten_thousand_wrong_labels_are_refused_soon(client: FlaskClient) -> None:
    client.application.config["MAX_CONTENT_LENGTH"] = 2_000_000
    items = [{"image": UPLOADED, "target": f"no such class {number}"} for number in range(10_000)]
    began = time.monotonic()
    assert client.post("/v1/jobs", json=body() | {"items": items}).status_code == 422
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("ids", "pointers"),
    [
        (["a", "b", "a"], {"/items/2/id": "item 0", "/items/0/id": "item 2"}),
        (["a", "a", "a"], {"/items/1/id": "item 0", "/items/0/id": "item 1", "/items/2/id": "item 0"}),
        (["1", None], {"/items/1/id": "its position", "/items/0/id": "item 1"}),
        ([None, "0"], {"/items/1/id": "item 0", "/items/0/id": "item 1"}),
        (["A", "a", "cr\u00e8me", "cre\u0300me", "a ", " a", "a/b", "a\\b", "00", "0x0"], {}),
    ],
)
def test_an_id_of_two_items_is_refused_with_pointers_to_both(
    client: FlaskClient, ids: list[str | None], pointers: dict[str, str]
) -> None:
    items = [{"image": UPLOADED} | ({} if name is None else {"id": name}) for name in ids]
    answer = client.post("/v1/jobs", json=body() | {"items": items})
    assert answer.json is not None
    found = {error["pointer"]: error["detail"] for error in answer.json.get("errors", [])}
    assert found.keys() == pointers.keys()
    assert all(words in found[pointer] for pointer, words in pointers.items())
    assert answer.status_code == (422 if pointers else 202)


def test_ten_thousand_items_of_one_id_are_refused_soon(client: FlaskClient) -> None:
    client.application.config["MAX_CONTENT_LENGTH"] = 2_000_000
    answer = client.post("/v1/jobs", json=body() | {"items": [{"id": "a", "image": UPLOADED}] * 10_000})
    assert answer.status_code == 422
    assert answer.json is not None
    assert "'a'" in answer.json["detail"]
    assert len(answer.json["errors"]) == 100
