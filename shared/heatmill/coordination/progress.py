"""The counts of an open job, as the script `progress.lua` answers them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from heatmill.schemas import Counts, Problem

T = TypeVar("T")


@dataclass(frozen=True)
class JobProgress:
    """The counts of an open job.

    Args:
        outstanding: Shards that were sent or are at work, and whose deadline has not passed.
    """

    counts: Counts
    items: int | None
    shards: int | None
    committed: int
    working: int
    cancelled: bool
    started_at: float | None
    summary: dict[str, Any]
    outstanding: int = 0
    makes_map: bool = False
    map_error: Problem | None = None

    @property
    def to_send(self) -> int:
        """Units of work that may be sent now: shards, and once they are all committed the map."""
        if self.shards is None or self.cancelled:
            return 0
        units = self.shards + (self.makes_map and self.committed >= self.shards)
        return units - self.committed - self.outstanding


def read_progress(answer: Any) -> JobProgress | None:
    """What the script `progress` says."""
    if answer is None:
        return None
    told, committed, working, outstanding = answer
    fields = dict(zip(told[::2], told[1::2], strict=True))
    return JobProgress(
        counts=Counts(
            total=optional(fields, "results", int),
            succeeded=int(fields["succeeded"]),
            failed=int(fields["failed"]),
            cached=int(fields["cached"]),
        ),
        items=optional(fields, "items", int),
        shards=optional(fields, "shards", int),
        committed=committed,
        working=working,
        outstanding=outstanding,
        cancelled="cancelled" in fields,
        started_at=optional(fields, "started_at", float),
        summary=json.loads(fields["summary"]),
        makes_map="map" in fields,
        map_error=optional(fields, "map_error", Problem.model_validate_json),
    )


def optional(fields: dict[str, str], name: str, convert: Callable[[str], T]) -> T | None:
    """A field that may be absent."""
    return convert(fields[name]) if name in fields else None
