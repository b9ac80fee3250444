"""Where to put images before a job names them: presigned PUTs, so that their bytes never pass through here."""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

from flask import Response, request
from pydantic import Field

from heatmill.errors import ImageTooLarge, TooLarge
from heatmill.jobs.planner import as_problem
from heatmill.schemas import Problem, Schema, Sha256
from heatmill.schemas.bounded import at_most
from heatmill.schemas.image_types import ImageType
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing
from heatmill.storage.presigned_upload import PresignedUpload
from heatmill_api.context import ApiContext, api_context, tenant
from heatmill_api.http.body import JSON, checked, read_json
from heatmill_api.http.responses import reply
from heatmill_api.http.routing import answers, body, ref, versioned

MAX_UPLOADS = 1000
READERS = 16

ContentType = Literal[ImageType, "application/octet-stream"]

api = versioned("uploads", "uploads")


class UploadRequest(Schema):
    """An image that the caller holds."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0, strict=True, description="In bytes; an empty file is an item that fails.")]
    content_type: ContentType


class UploadsRequest(Schema):
    """Many images."""

    images: Annotated[tuple[UploadRequest, ...], Field(min_length=1, max_length=MAX_UPLOADS), at_most(MAX_UPLOADS)]


class Upload(Schema):
    """Where an image goes, and how a job names it."""

    sha256: Sha256
    uri: str = Field(description="What an item's `image` says.")
    stored: bool = Field(description="It is there already; nothing has to be sent.")
    url: str | None = Field(None, description="PUT the bytes here, with these headers.")
    headers: dict[str, str] = Field({}, description="The signature covers them.")
    expires_in: int | None = Field(None, description="Seconds for which the URL works.")
    error: Problem | None = Field(None, description="Why this image, one of many, is not taken; it has no `url` then.")


class Uploads(Schema):
    """One entry per image, in the order asked for."""

    uploads: tuple[Upload, ...]


@api.post(
    "/uploads",
    responses=answers(
        {
            200: {
                "description": "`Uploads` for many images, `Upload` for a single one.",
                "content": {JSON: {"schema": {"anyOf": [ref(Uploads), ref(Upload)]}}},
            }
        },
        400,
        413,
        415,
        422,
        503,
    ),
    openapi_extensions=body({JSON: {"anyOf": [ref(UploadsRequest), ref(UploadRequest)]}}),
)
def create_uploads() -> Response:
    """Ask where to put images.

    Send one image, or many as `{"images": [...]}`. Images are stored by their content: what is there stays there.
    One that is too large is refused with 413 where it is the only one; among many, its entry has an `error`.
    """
    context = api_context()
    sent = read_json(request, context.settings)
    if "images" not in sent:
        try:
            return reply(_upload(context, tenant(), checked(UploadRequest, sent)))
        except ImageTooLarge as error:
            raise TooLarge(str(error)) from error
    asked: UploadsRequest = checked(UploadsRequest, sent)
    owner = tenant()
    with ThreadPoolExecutor(READERS) as pool:
        return reply(
            Uploads(uploads=tuple(pool.map(lambda image: _upload_of_many(context, owner, image), asked.images)))
        )


def _upload_of_many(context: ApiContext, owner: str, image: UploadRequest) -> Upload:
    try:
        return _upload(context, owner, image)
    except ImageTooLarge as error:
        # The others must not wait for somebody to take this one out of the list.
        uri = f"upload://{image.sha256}"
        return Upload(sha256=image.sha256, uri=uri, stored=False, error=as_problem(error))


def _upload(context: ApiContext, owner: str, image: UploadRequest) -> Upload:
    """Where one image goes.

    Raises:
        ImageTooLarge: It has more bytes than the limit.
    """
    limit = context.settings.max_image_bytes
    if image.size > limit:
        raise ImageTooLarge(f"image {image.sha256} has {image.size:,} bytes; the limit is {limit:,}")
    uri, key = f"upload://{image.sha256}", keys.blob(owner, image.sha256)
    try:
        # Another size is an upload that went wrong, and may be sent again.
        if context.storage.size(key) == image.size:
            return Upload(sha256=image.sha256, uri=uri, stored=True)
    except ObjectMissing:
        pass
    seconds = context.settings.presigned_seconds
    content = PresignedUpload(image.sha256, image.size, image.content_type)
    return Upload(
        sha256=image.sha256,
        uri=uri,
        stored=False,
        url=context.storage.presigned_put(key, content, seconds),
        headers=content.headers,
        expires_in=seconds,
    )
