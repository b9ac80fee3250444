"""From a submission that was read to the answer: resolved, accepted, started."""

import re
from http import HTTPStatus

from flask import Response, g, request

from heatmill.errors import InvalidRequest, JobNotFound, JobUnfinished, QueueUnavailable, StorageUnavailable
from heatmill.jobs import records
from heatmill.jobs.status import job_from_progress, load_job, progress_from_records
from heatmill.schemas import Job, JobRequest
from heatmill.storage.keys import JobId
from heatmill_api.context import api_context, job_id, source_rules, tenant
from heatmill_api.http.access_log import request_id
from heatmill_api.http.problems import faulty
from heatmill_api.http.responses import job_path, job_reply
from heatmill_api.jobs.accept import Acceptance, accept, earlier, fingerprint, job_for, start, store_files
from heatmill_api.jobs.parse import Submission
from heatmill_api.jobs.validate import resolve

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


def submitted(submission: Submission, key: str | None) -> Response:
    """Accept a job, and answer with it."""
    return _reply(_accept(submission, key))


def retried_before(origin: JobId, key: str | None) -> Response | None:
    """The answer to a retry that is sent again, when the job it is about has been deleted since."""
    if key is None:
        return None
    try:
        again = records.load_request(api_context().storage, job_for(tenant(), key))
    except JobNotFound:
        return None
    source = again.request.source
    return None if source is None or source.failed_of != origin.job else _reply(Acceptance(again, replayed=True))


def idempotency_key() -> str | None:
    """The one in the request's header, if any.

    Raises:
        InvalidRequest: It is none.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("the Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key


def resolved(asked: JobRequest) -> JobRequest:
    """The request as it is stored; another job that it is about is there, done, and has failed items."""
    context = api_context()
    found = resolve(asked, context.catalogue, source_rules())
    if found.source is None or found.source.failed_of is None:
        return found
    try:
        origin = load_job(context.storage, context.state, job_id(found.source.failed_of))
    except JobNotFound as error:
        raise faulty([{"pointer": "/source/uri", "detail": str(error)}]) from error
    if not origin.done:
        raise JobUnfinished(f"job {origin.id} is {origin.state}; what failed is known when it is done")
    if not origin.counts.failed:
        raise faulty([{"pointer": "/source/uri", "detail": f"job {origin.id} has no failed items"}])
    return found


def _accept(submission: Submission, key: str | None) -> Acceptance:
    context, job = api_context(), job_for(tenant(), key)
    asked = fingerprint(submission.request)
    # Looked up first, since a replay must leave no marker and must hold even when the catalogue has changed.
    if key is not None and (found := earlier(context.storage, job, asked)):
        return found
    # What is accepted would wait unseen until somebody gives Redis memory, and so would what comes after it.
    context.state.refuse_if_full()
    spelt_out = resolved(submission.request)
    store_files(context.storage, tenant(), submission.files)
    acceptance = accept(context, job, spelt_out, asked, request_id())
    if not acceptance.replayed:
        start(context, acceptance.job)
    return acceptance


def _reply(acceptance: Acceptance) -> Response:
    g.job = acceptance.job.id
    path = job_path(acceptance.job.id)
    replayed = {"Idempotency-Replayed": "true"} if acceptance.replayed else {}
    return job_reply(_as_it_is(acceptance), HTTPStatus.ACCEPTED, {"Location": path, **replayed})


def _as_it_is(acceptance: Acceptance) -> Job:
    """The accepted job; that nobody can be asked about it now does not make it less accepted."""
    context, job = api_context(), job_id(acceptance.job.id)
    try:
        return load_job(context.storage, context.state, job)
    except (QueueUnavailable, StorageUnavailable):
        return job_from_progress(job, progress_from_records(acceptance.job))
