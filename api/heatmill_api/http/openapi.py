"""The OpenAPI document."""

import json
from copy import deepcopy
from typing import Any

from flask import Response, redirect
from flask_openapi3.openapi import OpenAPI
from pydantic.json_schema import models_json_schema
from werkzeug.wrappers import Response as AnyResponse

from heatmill_api.http.routing import DOCUMENTED, REF


def serve_document(app: OpenAPI) -> None:
    """Add `/openapi.json` and `/docs`; every route must be registered before."""
    text = document_text(app)

    def document() -> Response:
        return Response(text, content_type="application/json")

    def docs() -> AnyResponse:
        return redirect("docs/swagger")

    app.add_url_rule("/openapi.json", view_func=document)
    app.add_url_rule("/docs", view_func=docs)


def document_text(app: OpenAPI) -> str:
    """The document as it is served and committed."""
    found = deepcopy(app.api_doc)
    # flask-openapi3 keeps only what its own model of a schema knows; pydantic's own schemas are whole.
    _, schemas = models_json_schema([(model, "validation") for model in DOCUMENTED.values()], ref_template=REF)
    found["components"]["schemas"] = schemas["$defs"]
    for path in found["paths"].values():
        for operation in path.values():
            _tidy(operation)
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _tidy(operation: dict[str, Any]) -> None:
    """Take out what flask-openapi3 says of every operation, and what is true of bodies only."""
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
    for parameter in operation.get("parameters", []):
        # A parameter is absent, never null.
        schema = parameter["schema"]
        kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
        schema.update(*kinds)
        if schema.get("default", "") is None:
            del schema["default"]
