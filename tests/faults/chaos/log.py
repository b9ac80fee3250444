"""The history of a run: JSON lines, written as things happen and never changed."""

import threading
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Event(BaseModel):
    """Something that was asked for and how it ended.

    Attributes:
        begun: Seconds since the epoch.
        ended: The same; the truth lies somewhere between.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    begun: float
    ended: float


class Submitted(Event):
    """A `POST` that makes a job; `invoked` is written before it is sent, the rest when it is over.

    Attributes:
        job: `<tenant>/<job>`; known when it is acknowledged.
        items: Ids of the items; for a retry they are not known to the caller.
        retry_of: The job whose failed items are asked for again.
        status: Of the HTTP answer, 0 for none.
    """

    what: Literal["submit"] = "submit"
    phase: Literal["invoked", "acknowledged", "failed"]
    tenant: str
    key: str
    items: tuple[str, ...] = ()
    top_k: int = 1
    retry_of: str | None = None
    job: str | None = None
    status: int = 0


class Asked(Event):
    """A cancel or a delete; status 0 is no answer."""

    what: Literal["cancel", "delete"]
    job: str
    status: int


class StatusRead(Event):
    """`GET` of a job."""

    what: Literal["status"] = "status"
    job: str
    status: int
    state: str = ""
    total: int | None = None
    succeeded: int = 0
    failed: int = 0


class RowsRead(Event):
    """`GET` of a job's rows, all of them: `<item> <method> <rank>` each."""

    what: Literal["rows"] = "rows"
    job: str
    status: int
    rows: tuple[str, ...] = ()


class Broken(Event):
    """A fault, from its beginning to its end."""

    what: Literal["fault"] = "fault"
    place: str
    kind: str
    detail: str = ""


AnyEvent = Annotated[Submitted | Asked | StatusRead | RowsRead | Broken, Field(discriminator="what")]
ANY_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


class Log:
    """The history while it is written, by many threads.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, event: Event) -> None:
        """Append."""
        with self._lock, self.path.open("a") as file:
            file.write(event.model_dump_json(exclude_defaults=False) + "\n")

    def events(self) -> list[AnyEvent]:
        """What was written."""
        return [ANY_EVENT.validate_json(line) for line in self.path.read_text().splitlines()]
