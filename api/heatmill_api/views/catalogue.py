"""What can be asked for: methods and models."""

from typing import Any

from flask import Response
from pydantic import Field
from werkzeug.exceptions import NotFound

from heatmill.catalogue.catalogue import Model
from heatmill.catalogue.methods import Method
from heatmill.errors import UnknownMethod, UnknownModel
from heatmill.jobs.model_records import load_newest_facts
from heatmill.schemas import ModelFacts, Schema, Size
from heatmill_api.context import api_context
from heatmill_api.http.responses import reply
from heatmill_api.http.routing import NamePath, answers, versioned

api = versioned("catalogue", "catalogue")


class MethodView(Schema):
    """A way to explain."""

    name: str
    title: str
    summary: str
    needs: tuple[str, ...]
    params: dict[str, Any]


class MethodList(Schema):
    """All methods."""

    methods: tuple[MethodView, ...]


class ModelView(Schema):
    """A classifier; what only the workers know is null."""

    name: str
    input_size: Size | None
    classes: int
    supports: tuple[str, ...] | None


class ModelList(Schema):
    """All models."""

    models: tuple[ModelView, ...]


class ModelDetail(ModelView):
    """A classifier and its classes."""

    labels: tuple[str, ...]
    facts: ModelFacts | None = Field(
        description="What a worker found when it ran the model on a few inputs before it explained anything; null "
        "before a worker has loaded it as models.toml has it now."
    )


@api.get("/methods", responses=answers({200: MethodList}))
def list_methods() -> Response:
    """List the methods, their params as JSON Schema."""
    return reply(MethodList(methods=tuple(_method(method) for method in api_context().catalogue.methods)))


@api.get("/methods/<string:name>", responses=answers({200: MethodView}, 404))
def get_method(path: NamePath) -> Response:
    """Read one method."""
    try:
        return reply(_method(api_context().catalogue.method(path.name)))
    except UnknownMethod as error:
        raise NotFound(str(error)) from error


@api.get("/models", responses=answers({200: ModelList}))
def list_models() -> Response:
    """List the models, and which methods each supports."""
    return reply(ModelList(models=tuple(ModelView(**_model(model)) for model in api_context().catalogue.models)))


@api.get("/models/<string:name>", responses=answers({200: ModelDetail}, 404, 503))
def get_model(path: NamePath) -> Response:
    """Read one model, its labels in the order of its classes, and what its proof found."""
    try:
        model = api_context().catalogue.model(path.name)
    except UnknownModel as error:
        raise NotFound(str(error)) from error
    facts = load_newest_facts(api_context().storage, model.spec)
    return reply(ModelDetail(**_model(model), labels=model.labels, facts=facts))


def _method(method: Method) -> MethodView:
    return MethodView(
        name=method.name, title=method.title, summary=method.summary, needs=method.needs, params=dict(method.params)
    )


def _model(model: Model) -> dict[str, Any]:
    supports = tuple(method.name for method in api_context().catalogue.methods if not model.lacks(method))
    return {
        "name": model.name,
        "input_size": model.input_size,
        "classes": len(model.labels),
        "supports": None if model.supports is None else supports,
    }
