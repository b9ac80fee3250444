"""Each request has an id, which its answer, its job and the log's line about it carry."""

import re
import time
from uuid import uuid4

import structlog
from flask import Flask, Response, g, request

HEADER = "X-Request-ID"
# Of callers and proxies; another text gets an id of ours in its place.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,100}")
# A path that nobody would read to its end.
MAX_PATH = 500

log = structlog.get_logger("heatmill.access")


def install(app: Flask, *, writes_log: bool) -> None:
    """Give each request its id, and where wanted write a line about each answer.

    The line holds no header, no query and no body: nothing in it opens anything. Its time ends where the answer begins.
    """
    app.before_request(_begin)
    app.after_request(_name)
    if writes_log:
        app.after_request(_write)


def request_id() -> str:
    """The id of the request that is answered now."""
    return str(g.request_id)


def _begin() -> None:
    sent = request.headers.get(HEADER, "")
    g.request_id = sent if REQUEST_ID.fullmatch(sent) else uuid4().hex
    g.begun = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _name(response: Response) -> Response:
    response.headers[HEADER] = request_id()
    return response


def _write(response: Response) -> Response:
    log.info(
        "request",
        request_id=request_id(),
        tenant=g.get("tenant"),
        method=request.method,
        path=request.path[:MAX_PATH],
        status=response.status_code,
        milliseconds=round((time.perf_counter() - g.begun) * 1000, 1),
        job=g.get("job") or (request.view_args or {}).get("job"),
    )
    return response
