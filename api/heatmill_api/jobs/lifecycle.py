"""Cancel, retry and delete a job."""

from contextlib import suppress
from http import HTTPStatus

import structlog
from flask import Response

from heatmill.errors import (
    InvalidRequest,
    JobDeleted,
    JobFinished,
    JobNotFound,
    JobUnfinished,
    QueueUnavailable,
    RecordDamaged,
    StorageUnavailable,
)
from heatmill.jobs import index as job_index
from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.schemas import Job, SourceRequest
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_api.context import ApiContext, api_context, known
from heatmill_api.http.responses import job_reply
from heatmill_api.http.routing import JobPath, answers, header, versioned
from heatmill_api.jobs.parse import Submission
from heatmill_api.jobs.submit import idempotency_key, retried_before, submitted

api = versioned("lifecycle", "jobs")
log = structlog.get_logger()


@api.post("/jobs/<string:job>:cancel", responses=answers({202: Job}, 404, 409, 503))
def cancel_job(path: JobPath) -> Response:
    """Stop a job within one batch. What is done stays; a job that is cancelled already is as it was."""
    context, job = api_context(), known(path.job)
    current = load_job(context.storage, context.state, job)
    if current.state == "cancelled":
        return job_reply(current, HTTPStatus.ACCEPTED)
    if current.done:
        raise JobFinished(f"job {job.job} is {current.state} already")
    try:
        context.storage.put(keys.cancelled(job), b"{}")
    except StorageUnavailable as error:
        # Redis keeps it until there is room: the job's end writes the marker before itself.
        log.warning("cancelled in Redis alone", job=str(job), error=str(error))
    # A Redis that is away may come back remembering the job as it was, so this must succeed: a 503 is sent again.
    context.state.cancel(job)
    context.dispatcher.feed()
    return job_reply(load_job(context.storage, context.state, job), HTTPStatus.ACCEPTED)


@api.post(
    "/jobs/<string:job>:retry",
    responses=answers({202: Job}, 404, 409, 422, 503),
    openapi_extensions=header("Idempotency-Key", "The same key gives the same new job; 1 to 255 visible ASCII."),
)
def retry_job(path: JobPath) -> Response:
    """Run the failed items of a job that is done again, with all its methods: the answer is a new job.

    It makes no map, since a map is of all items.
    """
    context, job, key = api_context(), known(path.job), idempotency_key()
    try:
        asked = records.load_request(context.storage, job).request
    except JobDeleted:
        if (answer := retried_before(job, key)) is not None:
            return answer
        raise
    if not asked.methods:
        raise InvalidRequest(f"job {job.job} was asked for a map only; submit it again for another one")
    again = asked.model_copy(
        update={
            "items": None,
            "source": SourceRequest(uri=f"job://{job.job}/failed", format=None),
            "map": None,
            # That is for items that the request names itself.
            "priority": None if asked.priority == "interactive" else asked.priority,
        }
    )
    return submitted(Submission(again), key)


@api.delete("/jobs/<string:job>", responses=answers({204: None}, 404, 409, 503))
def delete_job(path: JobPath) -> Response:
    """Delete a job that is done, with its results. Uploaded images stay, since other jobs may name them."""
    context, job = api_context(), known(path.job)
    _check_done(context, job)
    # Of a request that is lost the list passes over what is left.
    with suppress(JobNotFound, RecordDamaged, QueueUnavailable):
        job_index.remove(context.state, records.load_request(context.storage, job))
    records.mark_deleted(context.storage, job)
    # The timer does this as well.
    with suppress(QueueUnavailable):
        context.dispatcher.sweep(job)
    return Response(status=HTTPStatus.NO_CONTENT)


def _check_done(context: ApiContext, job: JobId) -> None:
    try:
        current = load_job(context.storage, context.state, job)
    except RecordDamaged as error:
        if error.key != keys.final(job):
            raise
        # What is damaged is its end, so it has ended.
        return
    if not current.done:
        raise JobUnfinished(f"job {job.job} is {current.state}; cancel it first")
