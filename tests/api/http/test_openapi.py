"""The API's description of itself."""

import json
import re
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from heatmill_api.__main__ import COPY, write_copy

ROOT = Path(__file__).parents[3]


def test_the_committed_copy_is_up_to_date(app: Flask, tmp_path: Path) -> None:
    write_copy(app, tmp_path / "now.json")
    assert (tmp_path / "now.json").read_text() == (ROOT / COPY).read_text(), "run python -m heatmill_api"


def test_the_document_is_valid(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_documented(app: Flask, client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(("/v1/", "/livez", "/readyz"))
    }
    assert routes == {(path, method) for path, item in document["paths"].items() for method in item}


def test_every_operation_documents_its_problems(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert set(response["content"]) == {"application/problem+json"}, (method, path, status)


def test_a_form_is_documented_beside_json(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    assert set(document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
    }


def test_the_readable_document_needs_no_other_host(client: FlaskClient) -> None:
    page = client.get("/docs", follow_redirects=True)
    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert '"../openapi.json"' in page.text
    assert r"validatorUrl\": null" in page.text or '"validatorUrl": null' in page.text
    for asset in re.findall(r'(?:src|href)="(swagger/[^"]+)"', page.text):
        with client.get(f"/docs/{asset}") as answer:
            assert answer.status_code == 200


def test_the_document_names_no_setting_of_this_machine(client: FlaskClient) -> None:
    assert "127.0.0.1" not in json.dumps(client.get("/openapi.json").json)
