"""How views answer."""

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus

from flask import Response
from pydantic import BaseModel

from heatmill.errors import InvalidRequest
from heatmill.schemas import Job


def reply(model: BaseModel, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """A model as JSON."""
    return Response(model.model_dump_json(), status, headers, content_type="application/json")


def job_reply(job: Job, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """A job with its links; a job that is not terminal says when to ask again."""
    pause = {} if job.done else {"Retry-After": "1"}
    return reply(linked(job), status, {**pause, **(headers or {})})


def linked(job: Job) -> Job:
    """The job with the paths of what can be asked about it."""
    path = job_path(job.id)
    links = {"self": path, "results": f"{path}/results", "cancel": f"{path}:cancel"}
    if job.done and job.counts.failed:
        links["retry"] = f"{path}:retry"
    if job.map is not None and job.map.state == "ready":
        links["map"] = f"{path}/map"
    return job.model_copy(update={"links": links})


def job_path(job: str) -> str:
    """Where a job is read."""
    return f"/v1/jobs/{job}"


def page_token(text: str) -> str:
    """A page's start, as callers hand it back."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_page_token(token: str) -> str:
    """What `page_token` was given.

    Raises:
        InvalidRequest: The token was not made here.
    """
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise bad_page_token() from error


def bad_page_token() -> InvalidRequest:
    """The error for a token that was not made here."""
    detail = "is not a page token of this list"
    return InvalidRequest(f"page_token {detail}", [{"parameter": "page_token", "detail": detail}])
