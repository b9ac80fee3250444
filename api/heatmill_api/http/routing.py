"""Blueprints, the app object, and how a route is documented. Only this and `openapi` know flask-openapi3."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.info import Info
from flask_openapi3.models.security_scheme import SecurityScheme
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.routing import PathConverter

from heatmill.storage.keys import JOB_PATTERN
from heatmill_api.http.auth import require_key
from heatmill_api.http.problems import RequestProblem, invalid_query

Responses = dict[str | int | HTTPStatus, type[BaseModel] | dict[Any, Any] | None]
Answer = type[BaseModel] | dict[Any, Any] | None
REF = "#/components/schemas/{model}"
VERSION = "1"
# Models that routes name, by the names of their schemas.
DOCUMENTED: dict[str, type[BaseModel]] = {}


class Parameters(BaseModel):
    """Frozen, and an unknown parameter is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ItemConverter(PathConverter):
    """An item's id in a path: Werkzeug's own kind may not begin with a slash."""

    regex = ".+?"
    part_isolating = False


class JobPath(Parameters):
    """Which job."""

    job: str = Field(description="The job's id.", json_schema_extra={"pattern": f"^{JOB_PATTERN}$"})


class NamePath(Parameters):
    """Which entry of the catalogue."""

    name: str


def new_app() -> OpenAPI:
    """A Flask app that documents itself; `/docs` needs nothing from another host."""
    app = OpenAPI(
        "heatmill_api",
        info=Info(title="heatmill", version=VERSION, description="Batches of images in, explanation heatmaps out."),
        security_schemes={"key": SecurityScheme(type="http", scheme="bearer")},
        validation_error_callback=invalid_query,
        validation_error_model=RequestProblem,
        doc_ui=False,
        static_folder=None,
    )
    app.register_blueprint(RegisterPlugin.register(doc_url="../openapi.json"), url_prefix="/docs")
    # Swagger UI would send the document to a validator on the internet.
    app.config["SWAGGER_CONFIG"] = {"validatorUrl": None}
    # An item's id may hold two slashes in a row, and a redirect would answer for another id.
    app.url_map.merge_slashes = False
    app.url_map.converters["item"] = ItemConverter
    return app


def versioned(name: str, tag: str) -> APIBlueprint:
    """A blueprint of `/v1`, whose views need an API key."""
    blueprint = APIBlueprint(
        name,
        f"heatmill_api.{name}",
        url_prefix="/v1",
        abp_tags=[Tag(name=tag)],
        abp_security=[{"key": []}],
        abp_responses=problems(HTTPStatus.UNAUTHORIZED),
        operation_id_callback=_name_of_view,
    )
    require_key(blueprint)
    return blueprint


def unversioned(name: str) -> APIBlueprint:
    """A blueprint at the root, open to everybody."""
    return APIBlueprint(name, f"heatmill_api.{name}", abp_tags=[Tag(name=name)], operation_id_callback=_name_of_view)


def register(app: OpenAPI, blueprint: APIBlueprint) -> None:
    """Add a blueprint to the app.

    Where two blueprints have one path, flask-openapi3 documents the methods of the later one only.
    """
    before = dict(app.paths)
    app.register_api(blueprint)
    for path in before.keys() & blueprint.paths.keys():
        added = blueprint.paths[path]
        methods = {name: getattr(added, name) for name in added.model_fields_set}
        app.paths[path] = before[path].model_copy(update=methods)


def answers(known: Mapping[int, Answer], *faults: int) -> Responses:
    """The documentation of what a route answers.

    Args:
        known: By status: a model of the JSON, None where there is no body, or the documentation itself.
        *faults: Statuses of problems.
    """
    return {**{status: _documented(status, answer) for status, answer in known.items()}, **problems(*faults)}


def problems(*statuses: int) -> Responses:
    """The documentation of error answers."""
    return {status: _content(status, "application/problem+json", RequestProblem) for status in statuses}


def body(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The documentation of a request body that the view reads by itself: media type -> schema."""
    media = {name: {"schema": schema} for name, schema in content.items()}
    return {"requestBody": {"required": True, "content": media}}


def ref(model: type[BaseModel]) -> dict[str, Any]:
    """A reference to a model's schema, which stands in the document from now on."""
    DOCUMENTED[model.__name__] = model
    return {"$ref": REF.format(model=model.__name__)}


def header(name: str, description: str) -> dict[str, Any]:
    """The documentation of a request header that the view reads by itself."""
    schema = {"type": "string", "maxLength": 255}
    return {"parameters": [{"name": name, "in": "header", "description": description, "schema": schema}]}


def _documented(status: int, answer: Answer) -> dict[Any, Any] | None:
    return _content(status, "application/json", answer) if isinstance(answer, type) else answer


def _content(status: int, media_type: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {media_type: {"schema": ref(model)}}}


def _name_of_view(name: str, path: str, method: str) -> str:
    """An operation's id: what generated clients call their functions."""
    return name
