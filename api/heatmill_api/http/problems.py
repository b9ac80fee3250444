"""Every error as an RFC 9457 problem. The one table of error class -> HTTP status stands here."""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, current_app
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from heatmill.errors import (
    BeingRepaired,
    HeatmillError,
    IdempotencyKeyReused,
    InvalidRequest,
    JobFinished,
    JobNotFound,
    JobUnfinished,
    MalformedRequest,
    MethodNotSupported,
    QueueFull,
    QueueUnavailable,
    RecordDamaged,
    RecordTooNew,
    ResultNotFound,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    TransientError,
    Unauthorized,
    UnknownMethod,
    UnknownModel,
)
from heatmill.schemas import Problem, problem_type
from heatmill.schemas.bounded import MAX_FAULTS
from heatmill.schemas.json_pointer import pointer
from heatmill.storage.bucket import AccessRefused

STATUS: Mapping[type[HeatmillError], HTTPStatus] = {
    MalformedRequest: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    JobNotFound: HTTPStatus.NOT_FOUND,
    ResultNotFound: HTTPStatus.NOT_FOUND,
    JobFinished: HTTPStatus.CONFLICT,
    JobUnfinished: HTTPStatus.CONFLICT,
    RecordDamaged: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnknownModel: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnknownMethod: HTTPStatus.UNPROCESSABLE_ENTITY,
    MethodNotSupported: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    RecordTooNew: HTTPStatus.SERVICE_UNAVAILABLE,
    TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
}
HEADERS: Mapping[HTTPStatus, Mapping[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Bearer realm="heatmill"'},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "5"},
}
# What is said outside; what a library said of hosts and keys is for the log.
UNAVAILABLE: Mapping[type[TransientError], str] = {
    StorageUnavailable: "the object store does not answer as it should",
    StorageFull: "the object store has no room left; whoever runs heatmill must make some, or delete jobs",
    AccessRefused: "the object store refuses what heatmill asks of it; whoever runs heatmill finds in its log what",
    QueueUnavailable: "Redis does not answer",
    QueueFull: "Redis is full and takes nothing more; whoever runs heatmill must give it memory",
    TransientError: "heatmill cannot answer now",
}
PLAIN_WORDS = {"extra_forbidden": "unknown field", "missing": "required"}
MAX_TEXT = 1000

log = structlog.get_logger()


class RequestProblem(Problem):
    """An error response."""

    errors: list[dict[str, Any]] = Field(
        [], description="Each points at its fault: `pointer` into the body, or `parameter`."
    )


def register_problems(app: Flask) -> None:
    """Make every error of the app a problem."""
    app.register_error_handler(HeatmillError, problem_of)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def invalid_query(error: ValidationError) -> Response:
    """The answer to a query or path parameter that is wrong; flask-openapi3 calls this."""
    faults: list[dict[str, object]] = [
        {"parameter": ".".join(map(str, fault["loc"])), "detail": _words(fault)} for fault in error.errors()
    ]
    first = faults[0]
    place = f"{first['parameter']}: " if first["parameter"] else ""
    return problem_of(InvalidRequest(f"{place}{first['detail']}", faults))


def invalid_body(error: ValidationError, body: object) -> InvalidRequest:
    """The error for a body that does not fit its schema, with a JSON pointer to every fault."""
    found: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False, include_input=False):
        words = found.setdefault(pointer(_path(fault, body)), [])
        if (word := _words(fault)) not in words:
            words.append(word)
    return faulty({"pointer": where, "detail": ", or ".join(words)} for where, words in found.items())


def faulty(errors: Iterable[dict[str, object]]) -> InvalidRequest:
    """The error for these faults; the first of them is its message."""
    listed = list(errors)
    first = listed[0]
    more = f" (and {len(listed) - 1:,} more)" if len(listed) > 1 else ""
    place = f"{first['pointer']}: " if first.get("pointer") else ""
    return InvalidRequest(f"{place}{first['detail']}{more}", listed[:MAX_FAULTS])


def unavailable(error: TransientError) -> str:
    """What callers are told of a dependency that fails; the log gets the rest."""
    log.warning("unavailable", error=str(error))
    if isinstance(error, BeingRepaired):
        return str(error)
    return next(UNAVAILABLE[kind] for kind in type(error).__mro__ if kind in UNAVAILABLE)


def _words(fault: ErrorDetails) -> str:
    return PLAIN_WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))


def _path(fault: ErrorDetails, body: object) -> list[int | str]:
    """Where in the body a fault is: pydantic's location without the names of a union's members."""
    path: list[int | str] = []
    for part in fault["loc"]:
        inside = _step(body, part)
        if inside is not None:
            path.append(part)
            body = inside[0]
    if fault["type"] == "missing":
        path.append(fault["loc"][-1])
    return path


def _step(value: object, part: int | str) -> tuple[object] | None:
    if isinstance(value, Mapping) and part in value:
        return (value[part],)
    if isinstance(value, Sequence) and isinstance(part, int) and part < len(value):
        return (value[part],)
    return None


def problem_of(error: HeatmillError) -> Response:
    """The answer that tells of an error."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    detail = f"{unavailable(error)}; try again" if isinstance(error, TransientError) else str(error)
    errors: list[dict[str, object]] = getattr(error, "errors", [])
    problem = RequestProblem(
        type=problem_type(error.code),
        title=error.title,
        status=status,
        detail=_clipped(detail),
        errors=[{name: _clipped(value) for name, value in fault.items()} for fault in errors[:MAX_FAULTS]],
    )
    return _answer(problem, HEADERS.get(status, {}))


def _http(error: HTTPException) -> Response | HTTPException:
    if error.response is not None or error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error
    if isinstance(error, RequestEntityTooLarge):
        return problem_of(TooLarge(f"the request is too large; the limit is {_limits()}"))
    if error.code == HTTPStatus.BAD_REQUEST:
        return problem_of(MalformedRequest(error.description or "the request cannot be read"))
    code = re.sub(r"\W+", "_", error.name.lower())
    problem = RequestProblem(
        type=problem_type(code), title=error.name, status=error.code, detail=error.description or ""
    )
    kept = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    return _answer(problem, kept)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected", exc_info=error)
    problem = RequestProblem(
        type=problem_type("internal_error"),
        title="Internal error",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        detail="heatmill failed; the service's log says why",
    )
    return _answer(problem, {})


def _clipped(value: Any) -> Any:
    """A text that may quote the request, at a length that somebody reads."""
    return value if not isinstance(value, str) or len(value) <= MAX_TEXT else value[:MAX_TEXT] + "..."


def _limits() -> str:
    size = int(current_app.config["MAX_CONTENT_LENGTH"])
    return f"{size:,} bytes, and {current_app.config['MAX_UPLOAD_FILES']} files in a form"


def _answer(problem: RequestProblem, headers: Mapping[str, str]) -> Response:
    body = problem.model_dump_json(exclude_defaults=True)
    return Response(body, problem.status, headers, content_type="application/problem+json")
