"""Unforeseen failures, and who has seen them: work fails for good when a second worker agrees.

What fails for one worker may be that worker's fault, however it looks: a broken library, a device that computes
nonsense, an older version. So the first failure is a doubt, which other workers confirm or refute.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

from heatmill.coordination.job_store import RedisJobStore, key
from heatmill.coordination.redis_errors import translated
from heatmill.storage.keys import JobId

# Of the doubts about a shard; a commit removes them before.
SHARD_SECONDS = 86_400
# Of the doubts about a model: an operator who has mended it is not told of the old fault for long.
MODEL_SECONDS = 900


@dataclass(frozen=True)
class Witness:
    """Who saw a failure.

    Args:
        worker: The same after the worker was started again.
        process: Differs from each other process, also of the same worker.
    """

    worker: str
    process: str


@dataclass(frozen=True)
class Doubt:
    """A failure that a worker has seen.

    Args:
        subject: What failed.
        seen_at: When the witness saw it first, in seconds since 1970.
    """

    subject: str
    witness: Witness
    seen_at: float


def doubts_of_shard(job: JobId, shard: int) -> str:
    """The Redis key of the doubts about a shard."""
    return key(job, f"doubts:{shard}")


def doubts_of_model(model: str) -> str:
    """The Redis key of the doubts about a model.

    Args:
        model: Its name, and what tells this entry of models.toml from others of that name.
    """
    return f"heatmill:doubts-of-model:{model}"


def note_doubts(state: RedisJobStore, name: str, subjects: list[str], witness: Witness, seconds: int) -> None:
    """Remember that a worker saw these fail; the first time counts.

    Args:
        state: Redis.
        name: A key of this module.
        subjects: What failed, not empty.
        witness: Who saw it.
        seconds: How long Redis keeps the key.
    """
    entries = {json.dumps([subject, witness.worker, witness.process]): time.time() for subject in subjects}
    with translated(), state.client.pipeline() as together:
        together.zadd(name, entries, nx=True)
        together.expire(name, seconds)
        together.execute()


def read_doubts(state: RedisJobStore, name: str) -> list[Doubt]:
    """All doubts under a key."""
    with translated():
        entries = state.client.zrange(name, 0, -1, withscores=True)
    return [_doubt(*entry) for entry in entries]


def drop_doubts(state: RedisJobStore, name: str) -> None:
    """Forget what is settled."""
    with translated():
        state.client.delete(name)


def _doubt(entry: Any, seen_at: Any) -> Doubt:
    subject, worker, process = json.loads(entry)
    return Doubt(subject, Witness(worker, process), float(seen_at))
