"""Submit and read a job."""

import time

from flask import Response, request
from pydantic import Field

from heatmill.jobs.status import load_job
from heatmill.schemas import LONGEST_WAIT_SECONDS, Job, JobRequest, ValidRequest
from heatmill.storage.keys import JobId
from heatmill_api.context import api_context, known
from heatmill_api.http.body import JSON
from heatmill_api.http.responses import job_reply, reply
from heatmill_api.http.routing import JobPath, Parameters, answers, body, header, ref, versioned
from heatmill_api.jobs.parse import FORM, read_submission
from heatmill_api.jobs.submit import idempotency_key, resolved, submitted

# Short at first: a single image is done in a few times this.
FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 1.0

api = versioned("jobs", "jobs")

FORM_SCHEMA = {
    "type": "object",
    "required": ["request", "images"],
    "additionalProperties": False,
    "properties": {
        "request": {**ref(JobRequest), "description": "Without `items`, each image is one, called by its file name."},
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
    },
}


class WaitQuery(Parameters):
    """How patient the caller is."""

    wait: float = Field(
        0, ge=0, le=LONGEST_WAIT_SECONDS, description="Answer when the job is terminal, or after this many seconds."
    )


@api.post(
    "/jobs",
    responses=answers({200: ValidRequest, 202: Job}, 400, 409, 413, 415, 422, 503),
    openapi_extensions=body({JSON: ref(JobRequest), FORM: FORM_SCHEMA})
    | header("Idempotency-Key", "The same key with the same body gives the same job; 1 to 255 visible ASCII."),
)
def submit_job() -> Response:
    """Submit a job.

    The answer comes once the job is durable. `validate_only` checks the request and stores nothing.
    """
    context = api_context()
    key = idempotency_key()
    submission = read_submission(request, context.settings)
    if submission.request.validate_only:
        return _validated(resolved(submission.request))
    return submitted(submission, key)


@api.get("/jobs/<string:job>", responses=answers({200: Job}, 404, 422, 503))
def get_job(path: JobPath, query: WaitQuery) -> Response:
    """Read a job's state and counts."""
    job = known(path.job)
    current = load_job(api_context().storage, api_context().state, job)
    if query.wait and not current.done:
        current = _wait(job, current, query.wait)
    return job_reply(current)


def _validated(found: JobRequest) -> Response:
    return reply(ValidRequest(model=found.model, methods=found.methods, map=found.map))


def _wait(job: JobId, current: Job, seconds: float) -> Job:
    """Ask again until the job is terminal or the time is over; at once where too many wait already."""
    context = api_context()
    end = time.monotonic() + seconds
    if not context.waiters.acquire(blocking=False):
        return current
    try:
        pause = FIRST_PAUSE_SECONDS
        while not current.done and (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, LONGEST_PAUSE_SECONDS)
            current = load_job(context.storage, context.state, job)
    finally:
        context.waiters.release()
    return current
