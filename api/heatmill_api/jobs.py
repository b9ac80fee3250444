"""Submit, read and cancel a job."""

import re
import time
from http import HTTPStatus

from flask import Response, request
from pydantic import Field

from heatmill import keys
from heatmill.errors import InvalidRequest, JobFinished, JobNotFound, QueueUnavailable, StorageUnavailable
from heatmill.keys import JobId
from heatmill.progress import open_job, progress_of, read_job
from heatmill.schemas import LONGEST_WAIT_SECONDS, Job, JobRequest, ValidRequest
from heatmill_api.accepting import Acceptance, accept, earlier, fingerprint, job_for, start, store_files
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
    key = _idempotency_key()
    submission = read_submission(request, here.settings)
    if submission.request.validate_only:
        return _validated(resolve(submission.request, here.catalogue, source_rules()))
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


@api.post("/jobs/<string:job>:cancel", responses={202: Job, **problems(404, 409, 503)})
def cancel_job(path: JobPath) -> Response:
    """Stop a job within one batch. What is done stays; a job that is cancelled already is as it was."""
    here, job = services(), known(path.job)
    current = read_job(here.storage, here.state, job)
    if current.state == "cancelled":
        return job_reply(current, HTTPStatus.ACCEPTED)
    if current.done:
        raise JobFinished(f"job {job.job} is {current.state} already")
    here.storage.write_once(keys.cancelled(job), b"{}")
    # A Redis that is away may come back remembering the job as it was, so this must succeed: a 503 is sent again.
    here.state.cancel(job)
    here.dispatcher.feed()
    return job_reply(read_job(here.storage, here.state, job), HTTPStatus.ACCEPTED)


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
    resolved = resolve(submission.request, here.catalogue, source_rules())
    store_files(here.storage, tenant(), submission.files)
    acceptance = accept(here, job, resolved, asked)
    if not acceptance.replayed:
        start(here, acceptance.job)
    return acceptance


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


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("the Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key
