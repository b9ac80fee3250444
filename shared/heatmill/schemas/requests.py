"""What callers ask for."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from heatmill.schemas.bounded import at_most
from heatmill.schemas.vocabulary import Label, Layout, Priority, Schema

MAX_INLINE_ITEMS = 10_000
MAX_METHODS = 16
MAX_TOP_K = 10
MAX_METADATA = 16
# In characters.
MAX_ID_LENGTH = 512
MAX_IMAGE_LENGTH = 2048
# The longest `?wait=` of a job.
LONGEST_WAIT_SECONDS = 30

# The control characters of ASCII. Those from U+0080 on are taken; who prints an id writes them as escapes.
ID_PATTERN = r"^[^\x00-\x1f\x7f]+$"
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=ID_PATTERN)]
SourceUri = Annotated[str, StringConstraints(pattern=r"^(s3://[^/]+/.*|job://[0-9a-f]{32}/failed)$", max_length=2048)]
ClassIndex = Annotated[int, Field(ge=0, strict=True)]


class MethodRequest(Schema):
    """A method and its params, as the caller names them."""

    name: Label
    params: dict[str, JsonValue] = {}


class ItemRequest(Schema):
    """One image of a request or of a manifest line."""

    id: ItemId | None = Field(None, description="The caller's name for the item; its position where none is given.")
    image: Annotated[str, StringConstraints(min_length=1, max_length=MAX_IMAGE_LENGTH)] = Field(
        description="`upload://<sha256>`, `s3://bucket/key`, or a file name of the same multipart form."
    )
    target: ClassIndex | Label | None = Field(
        None, description="Class to explain, by index or label; the image's own predicted class where none is given."
    )
    error: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        None,
        description="Why the caller's file cannot be explained, such as a name that cannot be an id: the item becomes "
        "a failed row with these words, and its image is not read.",
    )


class SourceRequest(Schema):
    """Where a large job's items are listed."""

    uri: SourceUri = Field(
        description="An `s3://bucket/prefix/`, a JSONL manifest of `{id, image, target}` lines, or the failed items of "
        "a job that is done, as `job://<id>/failed`."
    )
    format: Literal["prefix", "jsonl"] | None = Field(
        None, description="`jsonl` where the URI ends in .jsonl or .ndjson, else `prefix`."
    )

    @property
    def failed_of(self) -> str | None:
        """The id of the job whose failed items are meant, if so."""
        return self.uri.removeprefix("job://").removesuffix("/failed") if self.uri.startswith("job://") else None

    @property
    def resolved_format(self) -> Literal["prefix", "jsonl"]:
        """The format, by the URI's ending where none is given."""
        if self.format is not None:
            return self.format
        return "jsonl" if self.uri.lower().endswith((".jsonl", ".ndjson")) else "prefix"


class MapRequest(Schema):
    """A map of the whole job: one point per image, close to those that the model sees as alike."""

    method: Literal["tsne"]
    perplexity: Annotated[float, Field(ge=2, le=200, allow_inf_nan=False, strict=True)] = Field(
        30.0, description="Roughly how many neighbours an image has; lowered where the job has few images."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0


class JobRequest(Schema):
    """The body of `POST /v1/jobs`."""

    model: Label
    methods: Annotated[tuple[MethodRequest, ...], Field(max_length=MAX_METHODS), at_most(MAX_METHODS)] = Field(
        (), description="At least one, unless a `map` is asked for."
    )
    map: MapRequest | None = None
    items: (
        Annotated[tuple[ItemRequest, ...], Field(min_length=1, max_length=MAX_INLINE_ITEMS), at_most(MAX_INLINE_ITEMS)]
        | None
    ) = None
    source: SourceRequest | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K, strict=True)] = Field(
        1, description="Explain this many of the most probable classes, for items that name no target."
    )
    layout: Layout = Field(
        "objects",
        description="`objects` stores each file by itself, `webdataset` a tar for each run of up to 64 items.",
    )
    priority: Priority | None = Field(
        None, description="`interactive` for up to 16 items, else `normal`, where none is given."
    )
    metadata: Annotated[
        dict[Label, Annotated[str, StringConstraints(max_length=500)]], Field(max_length=MAX_METADATA)
    ] = {}
    previews: bool = Field(True, description="Store what the model saw of each image, at most 512 pixels a side.")
    cache: bool = Field(True, description="Take results that earlier jobs made of the same images in the same way.")
    validate_only: bool = False

    @model_validator(mode="after")
    def _has_one_origin_and_distinct_names(self) -> Self:
        if (self.items is None) == (self.source is None):
            raise ValueError("give either `items` or `source`")
        if not self.methods and self.map is None:
            raise ValueError("give at least one of `methods`, or a `map`")
        names = [method.name for method in self.methods]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"methods are named more than once: {', '.join(sorted(repeated))}")
        return self
