"""Submit and read a job."""

import re
import time
from http import HTTPStatus

from flask import Response, request
from pydantic import Field

from heatmill import keys
from heatmill.errors import InvalidRequest, JobNotFound, JobUnfinished, QueueUnavailable, StorageUnavailable
from heatmill.keys import JobId
from heatmill.progress import open_job, progress_of, read_job
from heatmill.schemas import LONGEST_WAIT_SECONDS, Job, JobRequest, ValidRequest
from heatmill_api.accepting import Acceptance, accept, earlier, fingerprint, job_for, start, store_files
from heatmill_api.problems import faulty
from heatmill_api.replies import job_path, job_reply, reply
from heatmill_api.resolving import resolve
from heatmill_api.routing import JobPath, Parameters, body, header, problems, ref, versioned
from heatmill_api.services import job_id, services, source_rules, tenant
from heatmill_api.submissions import FORM, JSON, Submission, read_submission

JOB = re.compile(keys.JOB_PATTERN)
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0

api = versioned("jobs", "jobs")

FORM_SCHEMA = {
    "type": "object",
    "required": ["request", "images"],
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
    responses={200: ValidRequest, 202: Job, **problems(400, 413, 415, 422, 503)},
    openapi_extensions=body({JSON: ref(JobRequest), FORM: FORM_SCHEMA})
    | header("Idempotency-Key", "The same key with the same body gives the same job; 1 to 255 visible ASCII."),
)
def submit_job() -> Response:
    """Submit a job.

    The answer comes once the job is durable. `validate_only` checks the request and stores nothing.
    """
    here = services()
    key = idempotency_key()
    submission = read_submission(request, here.settings)
    if submission.request.validate_only:
        return _validated(_resolved(submission.request))
    return submitted(submission, key)


def submitted(submission: Submission, key: str | None) -> Response:
    """Accept a job, and answer with it."""
    acceptance = _accept(submission, key)
    path = job_path(acceptance.job.id)
    replayed = {"Idempotency-Replayed": "true"} if acceptance.replayed else {}
    return job_reply(_as_it_is(acceptance), HTTPStatus.ACCEPTED, {"Location": path, **replayed})


@api.get("/jobs/<string:job>", responses={200: Job, **problems(404, 422, 503)})
def get_job(path: JobPath, query: WaitQuery) -> Response:
    """Read a job's state and counts."""
    job = known(path.job)
    current = read_job(services().storage, services().state, job)
    if query.wait and not current.done:
        current = _wait(job, current, query.wait)
    return job_reply(current)


def known(job: str) -> JobId:
    """The full name of a job that may exist.

    Raises:
        JobNotFound: No job is called that.
    """
    if not JOB.fullmatch(job):
        raise JobNotFound(f"there is no job {job[:100]!r}")
    return job_id(job)


def _accept(submission: Submission, key: str | None) -> Acceptance:
    here, job = services(), job_for(tenant(), key)
    asked = fingerprint(submission.request)
    # Looked up first, since a replay must leave no marker and must hold even when the catalogue has changed.
    if key is not None and (found := earlier(here.storage, job, asked)):
        return found
    resolved = _resolved(submission.request)
    store_files(here.storage, tenant(), submission.files)
    acceptance = accept(here, job, resolved, asked)
    if not acceptance.replayed:
        start(here, acceptance.job)
    return acceptance


def _resolved(asked: JobRequest) -> JobRequest:
    """The request as it is stored; another job that it is about is there, done, and has failed items."""
    here = services()
    resolved = resolve(asked, here.catalogue, source_rules())
    if resolved.source is None or resolved.source.failed_of is None:
        return resolved
    try:
        origin = read_job(here.storage, here.state, job_id(resolved.source.failed_of))
    except JobNotFound as error:
        raise faulty([{"pointer": "/source/uri", "detail": str(error)}]) from error
    if not origin.done:
        raise JobUnfinished(f"job {origin.id} is {origin.state}; what failed is known when it is done")
    if not origin.counts.failed:
        raise faulty([{"pointer": "/source/uri", "detail": f"job {origin.id} has no failed items"}])
    return resolved


def _as_it_is(acceptance: Acceptance) -> Job:
    """The accepted job; that nobody can be asked about it now does not make it less accepted."""
    here, job = services(), job_id(acceptance.job.id)
    try:
        return read_job(here.storage, here.state, job)
    except (QueueUnavailable, StorageUnavailable):
        return open_job(job, progress_of(acceptance.job))


def _validated(resolved: JobRequest) -> Response:
    return reply(ValidRequest(model=resolved.model, methods=resolved.methods, map=resolved.map))


def _wait(job: JobId, current: Job, seconds: float) -> Job:
    """Ask again until the job is terminal or the time is over; at once where too many wait already."""
    here = services()
    end = time.monotonic() + seconds
    if not here.waiters.acquire(blocking=False):
        return current
    try:
        pause = FIRST_PAUSE_SECONDS
        while not current.done and (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, LONGEST_PAUSE_SECONDS)
            current = read_job(here.storage, here.state, job)
    finally:
        here.waiters.release()
    return current


def idempotency_key() -> str | None:
    """The one in the request's header, if any.

    Raises:
        InvalidRequest: It is none.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("the Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key
