"""One heatmap as a picture, for browsers that cannot reach the object store."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

from flask import Response
from PIL import Image
from pydantic import Field

from heatmill.errors import RecordDamaged, ResultNotFound
from heatmill.images.overlay import overlay, resized
from heatmill.jobs import records
from heatmill.schemas import Row, StoredFile, StoredPicture
from heatmill.storage.bucket import ObjectMissing
from heatmill.storage.keys import CommitName, JobId
from heatmill.storage.read_ahead import read_ahead
from heatmill_api.context import ApiContext, api_context, known
from heatmill_api.http.routing import JobPath, Parameters, answers, versioned

PNG, JPEG = "image/png", "image/jpeg"
# What a heatmap is shown at over its photo, where no size is asked for.
OVERLAY_SIZE = 448
# Shards that are searched for an item whose position nobody knows.
MAX_SEARCHED = 64

api = versioned("pictures", "results")


class PicturePath(JobPath):
    """Which result."""

    item: str = Field(description="The item's id; may hold slashes.")
    method: str


class PreviewQuery(Parameters):
    """Which of the method's results."""

    rank: int = Field(0, ge=0, description="0 for the item's own target or its most probable class.")
    index: int | None = Field(None, ge=0, description="The row's `index`: needed where a job with a `source` is long.")


class PictureQuery(PreviewQuery):
    """How to show it."""

    overlay: float | None = Field(
        None, ge=0, le=1, description="Lay the heatmap over the preview of the photo; 1 hides the photo."
    )
    size: int | None = Field(None, ge=16, le=1024, description="Longer side in pixels.")


PICTURE = {"description": "The heatmap.", "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}
PREVIEW = {"description": "The preview.", "content": {JPEG: {"schema": {"type": "string", "format": "binary"}}}}


@api.get(
    "/jobs/<string:job>/results/<item:item>/<string:method>/heatmap.png",
    responses=answers({200: PICTURE}, 404, 422, 503),
)
def get_heatmap(path: PicturePath, query: PictureQuery) -> Response:
    """Get a heatmap as PNG, by itself or laid over its photo."""
    context, job = api_context(), known(path.job)
    row, heatmap = _shown(context, job, path, query)
    data = _stored(context, heatmap, "heatmap")
    if query.overlay is not None:
        data = _laid_over(_previewed(context, row), data, query)
    elif query.size is not None:
        data = _png(resized(Image.open(io.BytesIO(data), formats=["PNG"]), query.size))
    return _unchanging(data, PNG)


@api.get(
    "/jobs/<string:job>/results/<item:item>/<string:method>/preview.jpg",
    responses=answers({200: PREVIEW}, 404, 422, 503),
)
def get_preview(path: PicturePath, query: PreviewQuery) -> Response:
    """Get what the model saw of an item's image, at most 512 pixels a side; the same for all methods."""
    context, job = api_context(), known(path.job)
    return _unchanging(_previewed(context, _shown(context, job, path, query)[0]), JPEG)


def _unchanging(data: bytes, content_type: str) -> Response:
    """A result is written once, so what is shown of it never changes."""
    return Response(data, headers={"Cache-Control": "private, max-age=3600, immutable"}, content_type=content_type)


def _shown(context: ApiContext, job: JobId, path: PicturePath, query: PreviewQuery) -> tuple[Row, StoredPicture]:
    """A result and its heatmap.

    Raises:
        ResultNotFound: It has none.
    """
    row = _find(context, job, path, query)
    if row.heatmap is None:
        raise ResultNotFound(row.error.detail if row.error else "this result has no heatmap")
    return row, row.heatmap


def _find(context: ApiContext, job: JobId, path: PicturePath, query: PreviewQuery) -> Row:
    """A result.

    Raises:
        ResultNotFound: There is none, or not yet.
    """
    candidates = list(islice(_candidates(context, job, path.item, query.index), MAX_SEARCHED + 1))
    for names in candidates[:MAX_SEARCHED]:
        for row in _rows(context, job, names):
            wanted = (path.item, path.method, query.rank, row.index if query.index is None else query.index)
            if (row.item, row.method, row.rank, row.index) == wanted:
                return row
    where = f"job {job.job} has no result of {path.method} for {path.item!r} at rank {query.rank}"
    if len(candidates) > MAX_SEARCHED:
        raise ResultNotFound(f"{where} in its first {MAX_SEARCHED} shards; give the row's `index` to find it elsewhere")
    raise ResultNotFound(f"{where}, or not yet")


def _rows(context: ApiContext, job: JobId, names: Iterable[CommitName]) -> Iterator[Row]:
    """The rows of these commit records, but for those that have gone since they were listed."""

    def load(name: CommitName) -> list[Row]:
        with suppress(ObjectMissing):
            return list(records.load_commit(context.storage, job, *name)[1])
        return []

    return chain.from_iterable(read_ahead(load, names))


def _candidates(context: ApiContext, job: JobId, item: str, index: int | None) -> Iterator[list[CommitName]]:
    """The records of each shard in which an item may be: of one where its position is known, else of all."""
    every = (names for _, names in records.committed_shards(context.storage, job))
    try:
        accepted = records.load_request(context.storage, job)
    except RecordDamaged:
        return every
    named = [request.id or str(number) for number, request in enumerate(accepted.request.items or ())]
    if index is None and item in named:
        index = named.index(item)
    if index is not None:
        return iter([records.shard_names(context.storage, job, index // accepted.shard_items)])
    return iter(()) if named else every


def _stored(context: ApiContext, file: StoredFile, what: str) -> bytes:
    """A file as it was written.

    Raises:
        ResultNotFound: It is gone, or something else lies in its place.
    """
    try:
        data = context.storage.get_part(file.key, file.range)
    except ObjectMissing as error:
        raise ResultNotFound(f"the {what} is no longer stored") from error
    if file.sha256 not in {None, hashlib.sha256(data).hexdigest()}:
        raise ResultNotFound(f"the {what} is damaged: {file.key} does not hold what was written; submit it again")
    return data


def _previewed(context: ApiContext, row: Row) -> bytes:
    """What the model saw of the item's image, a JPEG.

    Raises:
        ResultNotFound: None was kept.
    """
    if row.preview is None:
        raise ResultNotFound(
            "this result has no preview: the job was asked for none, or it was made before there were any"
        )
    return _stored(context, row.preview, "preview")


def _laid_over(preview: bytes, heatmap: bytes, query: PictureQuery) -> bytes:
    below, above = (Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) for data in (preview, heatmap))
    whole = (0, 0, *below.size)
    return _png(overlay(below, above, whole, query.overlay or 0.0, query.size or OVERLAY_SIZE))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Somebody is waiting for it, and it is not stored.
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
