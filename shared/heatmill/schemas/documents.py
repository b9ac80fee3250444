"""What lies in the bucket: the accepted job, its plan, its shards' items and their results."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from heatmill.schemas.byte_range import ByteRange
from heatmill.schemas.requests import JobRequest, MapRequest, MethodRequest
from heatmill.schemas.vocabulary import Box, Layout, Priority, Problem, Schema, Sha256, Size, Verdict


class AcceptedJob(Schema):
    """job.json: the job as accepted, params resolved. Write-once; everything later is a function of it."""

    id: str
    tenant: str
    created_at: datetime
    request: JobRequest
    fingerprint: Sha256 = Field(description="Of the caller's request: a replay with another body is refused.")
    shard_items: Annotated[int, Field(ge=1, le=9999)]
    priority: Priority
    request_id: str = Field("", description="Of the HTTP request that submitted the job.")


class ShardHeader(Schema):
    """First line of a shard file; files of earlier versions have none."""

    job: str
    shard: int
    items: int
    sha256: Sha256 = Field(description="Of the lines that follow.")


class Item(Schema):
    """One line of a shard file."""

    index: Annotated[int, Field(ge=0, description="Position in the whole job.")]
    id: str
    image: str = ""
    target: int | None = None
    error: Problem | None = Field(None, description="Why this is not an item that can be explained.")


class Plan(Schema):
    """plan.json: what the shard files hold, and what a worker must know to process one."""

    job: str = Field("", description="Whose it is; empty in plans of earlier versions.")
    shards: int
    items: int
    results: int
    model: str
    methods: tuple[MethodRequest, ...]
    top_k: int
    layout: Layout = "objects"
    previews: bool = True
    cache: bool = True
    map: MapRequest | None = None
    map_error: Problem | None = Field(None, description="Why no map can be made of these items.")
    error: Problem | None = Field(None, description="Why the source could not be listed at all.")

    @property
    def makes_map(self) -> bool:
        """Whether a map comes after the last shard: one more unit of work, whose number is that of the shards."""
        return self.map is not None and self.map_error is None and self.shards > 0


class CommitHeader(Schema):
    """First line of a commit record."""

    job: str = Field("", description="Whose it is; empty in records of earlier versions.")
    shard: int
    part: int | None = Field(None, description="Null: the record is of the whole shard.")
    parts: int = Field(1, description="Of the shard.")
    items: tuple[int, int] | None = Field(
        None, description="Index of the part's first item, and of that after its last."
    )
    succeeded: int
    failed: int
    cached: int = Field(0, description="Of the succeeded.")
    seconds: float
    worker: str
    sha256: Sha256 = Field(description="Of the row lines that follow.")


class Target(Schema):
    """What was explained: a class, or one value of a regression."""

    index: int
    label: str
    probability: float | None = Field(
        None,
        description="Independent labels have one each, and those of one image need not add up to 1. Null where "
        "the model is a regression.",
    )
    value: float | None = Field(None, description="What a regression says; null where the model tells classes apart.")


class StoredFile(Schema):
    """A file in the object store: an object of its own, or part of one."""

    key: str
    url: str | None = None
    sha256: Sha256 | None = Field(None, description="Of the file; null in rows of earlier versions.")
    range: ByteRange | None = Field(
        None, description="Of a file in a tar: send this as the header `Range` to read it alone; the URL is the tar's."
    )


class StoredPicture(StoredFile):
    """A heatmap PNG: index i of the palette stands for the value `(i - zero_index) * scale`."""

    scale: float
    zero_index: int
    box: Box = Field(description="Left, top, right, bottom of the photo that the model saw.")


class StoredArray(StoredFile):
    """A float16 .npy: multiply by `factor` to get the attribution."""

    shape: tuple[int, ...]
    factor: float


class StoredPreview(StoredFile):
    """A JPEG of what the model saw of an item's image, in the shape of its heatmaps."""

    size: Size


class ImageRead(Schema):
    """How an item's image was read; docs/images.md has the rules."""

    format: str = Field(description="The file's format by its content: JPEG, PNG, WEBP, BMP, TIFF, GIF, AVIF or HEIF.")
    size: Size = Field(description="Width and height of the whole photo, upright, in pixels.")
    reduced_by: int = Field(1, description="2, 4 or 8 where a JPEG was decoded to 1/2, 1/4 or 1/8 of its size.")
    notes: tuple[str, ...] = Field(
        (),
        description="What was left out or changed, a sentence each: pages, transparency, a colour profile, damage.",
    )
    sha256: Sha256 | None = Field(
        None, description="Of the file's bytes; the photo is shown while it has them. Null in rows of older jobs."
    )


class Row(Schema):
    """One result: an item x method x target."""

    item: str
    index: int
    method: str
    rank: Annotated[int, Field(ge=0, description="0 for the item's own target or its most probable class.")]
    status: Literal["succeeded", "failed"]
    target: Target | None = None
    image: ImageRead | None = Field(None, description="How the image was read; null in rows that failed.")
    heatmap: StoredPicture | None = None
    attribution: StoredArray | None = None
    preview: StoredPreview | None = Field(
        None, description="The same for all results of an item; null in jobs without previews and in rows that failed."
    )
    checks: dict[str, Any] = {}
    verdict: Annotated[
        Verdict | None,
        Field(description="blank: the heatmap shows nothing; ok, imprecise: of a method that measures its own error."),
    ] = None
    provenance: dict[str, Any] = {}
    error: Problem | None = None
