"""A job's map: what is known of it, and its picture."""

from typing import get_args

from flask import Response

from heatmill.errors import RecordDamaged, ResultNotFound
from heatmill.jobs import records
from heatmill.schemas.feature_map import JobMap, MapFile
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing
from heatmill.storage.keys import JobId
from heatmill_api.context import ApiContext, api_context, known
from heatmill_api.http.responses import reply
from heatmill_api.http.routing import JobPath, answers, versioned

PNG = "image/png"
PICTURE = {"description": "The map.", "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}

api = versioned("maps", "results")


@api.get("/jobs/<string:job>/map", responses=answers({200: JobMap}, 404, 422, 503))
def get_map(path: JobPath) -> Response:
    """Read how a job's map was made, and where its files are.

    `png` shows it; `parquet` and `jsonl` hold a point per item: where it lies, and the class that the model predicts.
    """
    context, job = api_context(), known(path.job)
    made = _made(context, job)
    seconds = context.settings.presigned_seconds
    urls = {ending: context.storage.presigned_get(keys.job_map(job, ending), seconds) for ending in get_args(MapFile)}
    return reply(made.model_copy(update={"urls": urls}))


@api.get("/jobs/<string:job>/map.png", responses=answers({200: PICTURE}, 404, 422, 503))
def get_map_picture(path: JobPath) -> Response:
    """Get a job's map as a picture: a point per image, coloured by the class that the model predicts."""
    context, job = api_context(), known(path.job)
    _made(context, job)
    try:
        data = context.storage.get(keys.job_map(job, "png"))
    except ObjectMissing as error:
        raise ResultNotFound("the map is no longer stored") from error
    return Response(data, headers={"Cache-Control": "private, max-age=3600, immutable"}, content_type=PNG)


def _made(context: ApiContext, job: JobId) -> JobMap:
    """The map, where there is one.

    Raises:
        JobNotFound: There is no such job.
        ResultNotFound: It has no map, or not yet; the message says which.
    """
    made = records.load_map(context.storage, job)
    if made is None:
        raise ResultNotFound(_why_not(context, job))
    if made.error is not None:
        raise ResultNotFound(f"job {job.job} has no map: {made.error.detail}")
    return made


def _why_not(context: ApiContext, job: JobId) -> str:
    if records.load_request(context.storage, job).request.map is None:
        return f"job {job.job} was not asked for a map"
    plan = records.load_plan(context.storage, job)
    if plan is not None and plan.map_error is not None:
        return f"job {job.job} has no map: {plan.map_error.detail}"
    final = records.load_final(context.storage, job)
    if final is not None and plan is not None and plan.makes_map and final.state != "cancelled":
        raise RecordDamaged(keys.job_map(job, "json"), "it is missing")
    if final is not None:
        return f"job {job.job} ended before its map was made"
    return f"the map of job {job.job} is made when all of its items are done"
