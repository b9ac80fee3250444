"""Read a request's body as JSON, and as a model."""

from collections.abc import Mapping
from typing import Any

from flask import Request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from heatmill.errors import TooLarge
from heatmill.settings import Settings
from heatmill_api.http.problems import invalid_body
from heatmill_api.http.strict_json import parse_object

JSON = "application/json"


def read_json(request: Request, settings: Settings, *others: str) -> dict[str, Any]:
    """A request's body as a JSON object.

    Args:
        request: The request.
        settings: Have the limit.
        others: Content types that are read elsewhere, for the message.

    Raises:
        MalformedRequest, InvalidRequest: It is none.
        TooLarge: More bytes than the limit; they are not read.
    """
    if request.mimetype != JSON:
        raise UnsupportedMediaType(
            f"send the body as {' or '.join((JSON, *others))}, not {request.mimetype or 'nothing'}"
        )
    limit = settings.max_json_bytes
    limit = request.max_content_length = min(limit, request.max_content_length or limit)
    try:
        data = request.get_data(cache=False)
    except RequestEntityTooLarge as error:
        raise too_much_json(limit) from error
    # Of a chunked body Werkzeug reads as much as the limit allows, and says nothing of the rest.
    if request.content_length is None and len(data) >= limit:
        raise too_much_json(limit)
    return parse_object(data)


def checked(model: type[BaseModel], body: Mapping[str, Any]) -> Any:
    """A body as its model.

    Raises:
        InvalidRequest: It does not fit.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid_body(error, body) from error


def too_much_json(limit: int) -> TooLarge:
    """The error for a request that lists too much."""
    return TooLarge(f"the JSON has more than {limit:,} bytes, the limit; list more items in a manifest, as `source`")
