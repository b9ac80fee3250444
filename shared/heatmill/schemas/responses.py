"""What callers are told."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from heatmill.schemas.documents import Row
from heatmill.schemas.requests import MapRequest, MethodRequest
from heatmill.schemas.vocabulary import JobState, Priority, Problem, Schema


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


ConditionType = Literal["waiting_for_worker", "waiting_for_storage"]


class Condition(Schema):
    """Why a job that is not done stands still; it goes on by itself when that is over."""

    type: ConditionType
    detail: str = Field(description="For people: which worker said what.")
    since: datetime


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
    request_id: str = Field("", description="The `X-Request-ID` of the request that submitted the job.")
    condition: Condition | None = Field(None, description="Why the job stands still, where that is known.")
    error: Problem | None = Field(None, description="Why the whole job failed, where no item could be read at all.")
    links: dict[str, str] = {}


class JobPage(Schema):
    """A page of jobs, newest first; an empty token is the end."""

    jobs: tuple[Job, ...]
    next_page_token: str = ""
    unreadable: dict[str, str] = Field(
        {}, description="Jobs of this page whose records cannot be read, by id, and why; damaged ones are repaired."
    )


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
