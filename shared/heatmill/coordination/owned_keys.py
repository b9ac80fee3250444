"""Every key of Redis that has no time to live, and who takes it away: what nobody owns would stay for ever.

A test holds this table against what a service leaves behind (`tests/workers/control/test_leaks.py`).
"""

import re
from dataclasses import dataclass
from typing import Literal

# What must be true for a key to be there.
Owner = Literal["open job", "service", "tenant", "queue", "ready jobs"]


@dataclass(frozen=True)
class OwnedKeys:
    """Keys of one kind.

    Args:
        pattern: Fits the whole key; a group `job` or `tenant` names whose it is.
        owner: Whose end is the end of the key.
        bound: How large it can become.
    """

    pattern: str
    owner: Owner
    bound: str


OWNED_KEYS = (
    OwnedKeys(
        r"heatmill:\{(?P<job>[^/{}]+/[^/{}]+)\}:(job|committed|parts|inflight|claims|attempts)",
        "open job",
        "fields of the job, a bit for each shard, and what is sent; `forget` deletes them",
    ),
    OwnedKeys(r"heatmill:(open|changed)", "service", "an entry for each open job"),
    OwnedKeys(r"heatmill:outstanding", "service", "an entry for each shard that is sent or at work"),
    OwnedKeys(r"heatmill:ready:[a-z0-9]+(:(?P<tenant>[^{}]+))?", "ready jobs", "an entry for each open job that waits"),
    OwnedKeys(r"heatmill:turns:(explain|plan)", "service", "10,000 tenants"),
    OwnedKeys(r"heatmill:(turn|mended|checked-run-id)", "service", "a number or a name"),
    OwnedKeys(r"heatmill:\{(?P<tenant>[^/{}]+)\}:jobs(:floor)?", "tenant", "11,000 jobs of a tenant"),
    OwnedKeys(
        r"(explain|control)(:[36])?",
        "queue",
        "shards in the window; one message for each job to plan or to finish, for feed, and for each deleted job",
    ),
    OwnedKeys(r"unacked(_index)?", "queue", "messages at work"),
    OwnedKeys(r"_kombu\.binding[A-Za-z0-9_.@-]+", "queue", "a queue, or a worker that listens"),
)


def owner_of(key: str) -> tuple[OwnedKeys, re.Match[str]] | None:
    """Who takes a key without time to live away; None where nobody does."""
    for owned in OWNED_KEYS:
        if (found := re.fullmatch(owned.pattern, key)) is not None:
            return owned, found
    return None
