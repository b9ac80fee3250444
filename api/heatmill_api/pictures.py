"""One heatmap as a picture, for browsers that cannot reach the object store."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

from flask import Response
from PIL import Image
from pydantic import Field

from heatmill import records
from heatmill.errors import ImageTooLarge, ImageUnreadable, RecordDamaged, ResultNotFound
from heatmill.image_uris import UriRefused, address
from heatmill.images import ImageLimits, decode_reduced
from heatmill.keys import CommitName, JobId
from heatmill.overlay import overlay, resized
from heatmill.read_ahead import read_ahead
from heatmill.schemas import ImageRead, Row, StoredPicture
from heatmill.storage import AccessRefused, ObjectMissing
from heatmill_api.routing import JobPath, Parameters, problems, versioned
from heatmill_api.services import Services, known, services, source_rules

PNG = "image/png"
# What a heatmap is shown at over its photo, where no size is asked for.
OVERLAY_SIZE = 448
# Shards that are searched for an item whose position nobody knows.
MAX_SEARCHED = 64

api = versioned("pictures", "results")


class PicturePath(JobPath):
    """Which result."""

    item: str = Field(description="The item's id; may hold slashes.")
    method: str


class PictureQuery(Parameters):
    """How to show it."""

    rank: int = Field(0, ge=0, description="0 for the item's own target or its most probable class.")
    index: int | None = Field(None, ge=0, description="The row's `index`: needed where a job with a `source` is long.")
    overlay: float | None = Field(None, ge=0, le=1, description="Lay the heatmap over the photo; 1 hides the photo.")
    size: int | None = Field(None, ge=16, le=1024, description="Longer side in pixels.")


PICTURE = {"description": "The heatmap.", "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}


@api.get(
    "/jobs/<string:job>/results/<item:item>/<string:method>/heatmap.png",
    responses={200: PICTURE, **problems(404, 422, 503)},
)
def get_heatmap(path: PicturePath, query: PictureQuery) -> Response:
    """Get a heatmap as PNG, by itself or laid over its photo."""
    here, job = services(), known(path.job)
    shard, row = _find(here, job, path, query)
    if row.heatmap is None:
        raise ResultNotFound(row.error.detail if row.error else "this result has no heatmap")
    data = _stored(here, row.heatmap)
    if query.overlay is not None:
        photo = _photo(here, _image_uri(here, job, shard, row.index), row.image)
        data = _over_photo(here, photo, (row.heatmap, data), query)
    elif query.size is not None:
        data = _png(resized(Image.open(io.BytesIO(data), formats=["PNG"]), query.size))
    # A result is written once, so what is shown here never changes.
    return Response(data, headers={"Cache-Control": "private, max-age=3600, immutable"}, content_type=PNG)


def _find(here: Services, job: JobId, path: PicturePath, query: PictureQuery) -> tuple[int, Row]:
    """A result and its shard.

    Raises:
        ResultNotFound: There is none, or not yet.
    """
    candidates = list(islice(_candidates(here, job, path.item, query.index), MAX_SEARCHED + 1))
    for number, names in candidates[:MAX_SEARCHED]:
        for row in _rows(here, job, names):
            wanted = (path.item, path.method, query.rank, row.index if query.index is None else query.index)
            if (row.item, row.method, row.rank, row.index) == wanted:
                return number, row
    where = f"job {job.job} has no result of {path.method} for {path.item!r} at rank {query.rank}"
    if len(candidates) > MAX_SEARCHED:
        raise ResultNotFound(f"{where} in its first {MAX_SEARCHED} shards; give the row's `index` to find it elsewhere")
    raise ResultNotFound(f"{where}, or not yet")


def _rows(here: Services, job: JobId, names: Iterable[CommitName]) -> Iterator[Row]:
    """The rows of these commit records, but for those that have gone since they were listed."""

    def load(name: CommitName) -> list[Row]:
        with suppress(ObjectMissing):
            return list(records.load_commit(here.storage, job, *name)[1])
        return []

    return chain.from_iterable(read_ahead(load, names))


def _candidates(here: Services, job: JobId, item: str, index: int | None) -> Iterator[tuple[int, list[CommitName]]]:
    """The shards in which an item may be, and their records: one where its position is known, else all."""
    try:
        accepted = records.load_request(here.storage, job)
    except RecordDamaged:
        return records.committed_shards(here.storage, job)
    named = [request.id or str(number) for number, request in enumerate(accepted.request.items or ())]
    if index is None and item in named:
        index = named.index(item)
    if index is not None:
        number = index // accepted.shard_items
        return iter([(number, records.shard_names(here.storage, job, number))])
    return iter(()) if named else records.committed_shards(here.storage, job)


def _stored(here: Services, heatmap: StoredPicture) -> bytes:
    try:
        data = here.storage.get_part(heatmap.key, heatmap.range)
    except ObjectMissing as error:
        raise ResultNotFound("the heatmap is no longer stored") from error
    if heatmap.sha256 not in {None, hashlib.sha256(data).hexdigest()}:
        raise ResultNotFound(f"the heatmap is damaged: {heatmap.key} does not hold what was written; submit it again")
    return data


def _image_uri(here: Services, job: JobId, shard: int, index: int) -> str:
    return next(item.image for item in records.load_shard(here.storage, job, shard) if item.index == index)


def _photo(here: Services, uri: str, read: ImageRead | None) -> bytes:
    """The photo that was explained.

    Raises:
        ResultNotFound: It is not there any more, or another lies in its place.
    """
    photo = _fetch(here, uri)
    # Rows of older jobs do not say what was read.
    if read is not None and read.sha256 not in {None, hashlib.sha256(photo).hexdigest()}:
        raise ResultNotFound(f"the heatmap's photo, {uri}, is not what it was when it was explained")
    return photo


def _over_photo(here: Services, photo: bytes, heatmap: tuple[StoredPicture, bytes], query: PictureQuery) -> bytes:
    """The heatmap over what the model saw of its photo.

    Raises:
        ResultNotFound: The photo cannot be read.
    """
    (stored, data), settings = heatmap, here.settings
    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    try:
        with here.painters:
            limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
            size = query.size or OVERLAY_SIZE
            upright = decode_reduced(photo, limits, 2 * size)
            return _png(overlay(upright.image, picture, upright.within(stored.box), query.overlay or 0.0, size))
    except (ImageUnreadable, ImageTooLarge) as error:
        raise ResultNotFound(f"the heatmap's photo cannot be shown: {error}") from error


def _fetch(here: Services, uri: str) -> bytes:
    limit = here.settings.max_image_bytes
    try:
        place = address(uri, here.storage, source_rules())
        photo = place.storage.get(place.key, max_bytes=limit + 1)
    except (UriRefused, ObjectMissing, AccessRefused) as error:
        raise ResultNotFound(f"the heatmap's photo cannot be read: {error}") from error
    if len(photo) > limit:
        raise ResultNotFound(f"the heatmap's photo has more than {limit:,} bytes, the limit")
    return photo


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Somebody is waiting for it, and it is not stored.
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
