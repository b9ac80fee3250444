"""What callers, API and workers say to each other, as frozen pydantic models."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

MAX_INLINE_ITEMS = 10_000
MAX_METHODS = 16
MAX_TOP_K = 10
MAX_METADATA = 16
# The longest `?wait=` of a job.
LONGEST_WAIT_SECONDS = 30

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
SourceUri = Annotated[str, StringConstraints(pattern=r"^(s3://[^/]+/.*|job://[0-9a-f]{32}/failed)$", max_length=2048)]
ClassIndex = Annotated[int, Field(ge=0, strict=True)]
Priority = Literal["interactive", "normal", "bulk"]
JobState = Literal["queued", "running", "succeeded", "partly_failed", "failed", "cancelled"]
Verdict = Literal["ok", "imprecise"]


class Schema(BaseModel):
    """Frozen, and an unknown field is an error: a typo is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodRequest(Schema):
    """A method and its params, as the caller names them."""

    name: Label
    params: dict[str, JsonValue] = {}


class ItemRequest(Schema):
    """One image of a request or of a manifest line."""

    id: ItemId | None = Field(None, description="The caller's name for the item; its position where none is given.")
    image: Annotated[str, StringConstraints(min_length=1, max_length=2048)] = Field(
        description="`upload://<sha256>`, `s3://bucket/key`, or a file name of the same multipart form."
    )
    target: ClassIndex | Label | None = Field(
        None, description="Class to explain, by index or label; the image's own predicted class where none is given."
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
        return "jsonl" if self.uri.endswith((".jsonl", ".ndjson")) else "prefix"


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
    methods: Annotated[tuple[MethodRequest, ...], Field(max_length=MAX_METHODS)] = Field(
        (), description="At least one, unless a `map` is asked for."
    )
    map: MapRequest | None = None
    items: Annotated[tuple[ItemRequest, ...], Field(min_length=1, max_length=MAX_INLINE_ITEMS)] | None = None
    source: SourceRequest | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K, strict=True)] = Field(
        1, description="Explain this many of the most probable classes, for items that name no target."
    )
    priority: Priority | None = Field(
        None, description="`interactive` for up to 16 items, else `normal`, where none is given."
    )
    metadata: Annotated[
        dict[Label, Annotated[str, StringConstraints(max_length=500)]], Field(max_length=MAX_METADATA)
    ] = {}
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


class AcceptedJob(Schema):
    """job.json: the job as accepted, params resolved. Write-once; everything later is a function of it."""

    id: str
    tenant: str
    created_at: datetime
    request: JobRequest
    fingerprint: Sha256 = Field(description="Of the caller's request: a replay with another body is refused.")
    shard_items: Annotated[int, Field(ge=1, le=9999)]
    priority: Priority


class Item(Schema):
    """One line of a shard file."""

    index: Annotated[int, Field(ge=0, description="Position in the whole job.")]
    id: str
    image: str = ""
    target: int | None = None
    error: "Problem | None" = Field(None, description="Why a manifest line is not an item.")


class Plan(Schema):
    """plan.json: what the shard files hold, and what a worker must know to process one."""

    shards: int
    items: int
    results: int
    model: str
    methods: tuple[MethodRequest, ...]
    top_k: int
    cache: bool = True
    map: MapRequest | None = None
    map_error: "Problem | None" = Field(None, description="Why no map can be made of these items.")
    error: "Problem | None" = Field(None, description="Why the source could not be listed at all.")

    @property
    def makes_map(self) -> bool:
        """Whether a map comes after the last shard: one more unit of work, whose number is that of the shards."""
        return self.map is not None and self.map_error is None and self.shards > 0


class Problem(Schema):
    """An RFC 9457 problem, as it stands in a failed row and in an error response."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int | None = None
    detail: str = ""


class Target(Schema):
    """The class that was explained."""

    index: int
    label: str
    probability: float


class StoredPicture(Schema):
    """A heatmap PNG: index i of the palette stands for the value `(i - zero_index) * scale`."""

    key: str
    url: str | None = None
    scale: float
    zero_index: int
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom of the photo that the model saw."
    )


class StoredArray(Schema):
    """A float16 .npy: multiply by `factor` to get the attribution."""

    key: str
    url: str | None = None
    shape: tuple[int, ...]
    factor: float


class Row(Schema):
    """One result: an item x method x target."""

    item: str
    index: int
    method: str
    rank: Annotated[int, Field(ge=0, description="0 for the item's own target or its most probable class.")]
    status: Literal["succeeded", "failed"]
    target: Target | None = None
    heatmap: StoredPicture | None = None
    attribution: StoredArray | None = None
    checks: dict[str, Any] = {}
    verdict: Verdict | None = None
    provenance: dict[str, Any] = {}
    error: Problem | None = None


class CommitHeader(Schema):
    """First line of a commit record."""

    shard: int
    succeeded: int
    failed: int
    cached: int = Field(0, description="Of the succeeded.")
    seconds: float
    worker: str
    sha256: Sha256 = Field(description="Of the row lines that follow.")


class Counts(Schema):
    """Results of a job; `total` is null until a source has been listed."""

    total: int | None
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    cached: int = Field(0, description="Of the succeeded: taken from earlier jobs, at no device time.")

    @property
    def done(self) -> int:
        """Results that will not change."""
        return self.succeeded + self.failed + self.cancelled


class MapStatus(MapRequest):
    """The map that was asked for, and what became of it."""

    state: Literal["pending", "ready", "failed", "cancelled"] = "pending"
    error: Problem | None = Field(None, description="Why there is no map; the job's results do not depend on it.")


class Job(Schema):
    """A job as the API shows it."""

    id: str
    state: JobState
    done: bool = Field(description="The state is terminal: nothing will change.")
    progress: Annotated[float, Field(ge=0, le=1)]
    counts: Counts
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = Field(None, description="When the job and its objects are deleted, if ever.")
    items_per_second: float | None = None
    eta_seconds: float | None = None
    model: str
    methods: tuple[MethodRequest, ...]
    map: MapStatus | None = None
    priority: Priority
    metadata: dict[str, str] = {}
    error: Problem | None = Field(None, description="Why the whole job failed, where no item could be read at all.")
    links: dict[str, str] = {}


class JobPage(Schema):
    """A page of jobs, newest first; an empty token is the end."""

    jobs: tuple[Job, ...]
    next_page_token: str = ""


class ValidRequest(Schema):
    """The answer to a request that was only to be validated: what it would run."""

    valid: bool = True
    model: str
    methods: tuple[MethodRequest, ...]
    map: MapRequest | None = None


class ResultPage(Schema):
    """A page of rows, in the order of the job's items; an empty token is the end."""

    results: tuple[Row, ...]
    next_page_token: str = ""
    complete: bool = Field(description="False while rows are still to come.")


def problem_type(code: str) -> str:
    """The stable URI reference of an error code."""
    return f"https://heatmill.dev/problems/{code}"
