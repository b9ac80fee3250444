"""Requests made up from the document: none breaks the API, and every answer is a documented one."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from flask import Flask
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from heatmill_api.__main__ import COPY
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext

KEY = "made-up"
EXAMPLES = 10
OPERATIONS = [
    operation
    for path in json.loads((Path(__file__).parents[2] / COPY).read_text())["paths"].values()
    for operation in path.values()
]
# What takes nothing cannot be asked wrongly.
KINDS = [(operation["operationId"], GenerationMode.POSITIVE) for operation in OPERATIONS] + [
    (operation["operationId"], GenerationMode.NEGATIVE)
    for operation in OPERATIONS
    if operation.keys() & {"parameters", "requestBody"}
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]


@pytest.fixture
def guarded(services: ApiContext, tmp_path: Path) -> Flask:
    """An API that asks for a key."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({hashlib.sha256(KEY.encode()).hexdigest(): "default"}))
    return create_app(replace(services, settings=services.settings.model_copy(update={"api_keys_file": path})))


@pytest.fixture
def document(guarded: Flask) -> OpenApiSchema:
    return schemathesis.openapi.from_wsgi("/openapi.json", guarded)


@pytest.mark.parametrize(("operation", "mode"), KINDS)
def test_every_made_up_request_gets_a_documented_answer(
    document: OpenApiSchema, operation: str, mode: GenerationMode
) -> None:
    made_up = document.find_operation_by_id(operation).as_strategy(generation_mode=mode)

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=made_up)
    def answer(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS)

    answer()
