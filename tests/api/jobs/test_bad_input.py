"""What a model cannot serve is refused when the job is submitted: at once, by name, and with nothing stored."""

from itertools import product

import pytest
from flask.testing import FlaskClient

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from tests.api.requests import answered, body

CATALOGUE = load_catalogue()
MODELS = ("efficientnet_lite0", "digits_vit", "swin_t")
REFUSED = [
    (model, method.name) for model, method in product(MODELS, CATALOGUE.methods) if CATALOGUE.model(model).lacks(method)
]


def test_attention_on_a_cnn_and_grad_cam_on_a_vit_are_among_them() -> None:
    assert {("efficientnet_lite0", "attention"), ("digits_vit", "grad_cam"), ("swin_t", "attention")} <= set(REFUSED)


@pytest.mark.parametrize(("model", "method"), REFUSED)
def test_a_method_that_the_model_cannot_serve_is_refused_before_anything_is_stored(
    client: FlaskClient, storage: S3Storage, model: str, method: str
) -> None:
    request = body(model=model, methods=[{"name": "saliency"}, {"name": method}])

    problem = answered(client.post("/v1/jobs", json=request), 422)

    assert problem["type"].endswith("method_not_supported")
    (error,) = problem["errors"]
    assert error["pointer"] == "/methods/1/name"
    assert f"{method} needs " in error["detail"]
    assert f"which {model} does not have; it supports " in error["detail"]
    assert "saliency" in error["detail"]
    assert list(storage.list(keys.OPEN_PREFIX)) == []


@pytest.mark.parametrize("target", ["", [], 3.5, True])
def test_an_item_that_is_wrong_is_one_fault_and_not_a_list_that_is_too_short(
    client: FlaskClient, target: object
) -> None:
    listed = body()["items"]

    problem = answered(client.post("/v1/jobs", json=body() | {"items": [{**listed[0], "target": target}]}), 422)

    assert [error["pointer"] for error in problem["errors"]] == ["/items/0/target"]
    assert "more" not in problem["detail"]
