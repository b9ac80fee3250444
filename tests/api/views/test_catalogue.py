"""What can be asked for."""

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

from heatmill.catalogue.models import ModelSpec
from heatmill.jobs.model_records import store_facts
from heatmill.schemas import ModelFacts
from heatmill.storage.bucket import S3Storage


def test_every_method_shows_the_schema_of_its_params(client: FlaskClient) -> None:
    answer = client.get("/v1/methods").json
    assert answer is not None
    by_name = {method["name"]: method for method in answer["methods"]}
    assert {"saliency", "integrated_gradients", "grad_cam"} <= set(by_name)
    for name, method in by_name.items():
        Draft202012Validator.check_schema(method["params"])
        assert method["summary"]
        assert client.get(f"/v1/methods/{name}").json == method


def test_a_model_says_which_methods_it_supports(client: FlaskClient) -> None:
    answer = client.get("/v1/models").json
    assert answer is not None
    by_name = {model["name"]: model for model in answer["models"]}
    assert by_name["resnet18"]["input_size"] == [224, 224]
    assert "grad_cam" in by_name["resnet18"]["supports"]
    assert "grad_cam" not in by_name["vit_b_16"]["supports"]


def test_a_model_alone_has_its_labels_too(client: FlaskClient) -> None:
    model = client.get("/v1/models/efficientnet_lite0").json
    assert model is not None
    assert model["classes"] == len(model["labels"]) == 1000
    assert model["labels"][967] == "espresso"


@pytest.mark.parametrize("path", ["/v1/methods/salience", "/v1/models/resnet81"])
def test_a_name_that_there_is_not_is_not_found_and_gets_the_closest(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"
    assert "closest" in answer.text


def test_a_model_shows_what_its_proof_found_once_a_worker_has_loaded_it(
    client: FlaskClient, storage: S3Storage
) -> None:
    before = client.get("/v1/models/efficientnet_lite0").json
    assert before is not None
    assert before["facts"] is None
    facts = ModelFacts(key="a" * 64, writes_its_input=True, supports=("gradients",))

    store_facts(storage, ModelSpec(name="efficientnet_lite0", loader="bundled"), facts)

    after = client.get("/v1/models/efficientnet_lite0").json
    assert after is not None
    assert after["facts"]["writes_its_input"] is True
    assert after["facts"]["key"] == "a" * 64
