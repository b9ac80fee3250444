"""What happens in a chaos run and when: a pure function of the seed and the length."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.faults.classifier import NAP
from tests.faults.photos import Photo, ordering

METHOD = "saliency"
BROKEN = Photo("broken", b"these bytes are no image")
# Hundredths of a second that the model naps over each, twice: a shard of four takes from 0.1 to 0.4 s.
# These two put an activation on the very edge of the ReLU, where how a batch is rounded decides on the gradient.
ON_AN_EDGE = {25, 34}
POOL = tuple(ordering(f"chaos-{number:02}", NAP, 1 + number % 4) for number in range(40) if number not in ON_AN_EDGE)
PHOTOS = {photo.id: photo for photo in (*POOL, BROKEN)}
# One shard, some shards, many. Two workers whom something hits half of the time do this in time on two busy cores, so
# that what is left at the end is a matter of healing.
SIZES = (1, 1, 3, 4, 4, 7, 12, 24)
SECONDS_PER_JOB = 1.8
# Nobody touches Redis before: until then no excuse is taken for a count that goes backwards.
REDIS_IS_SAFE_SECONDS = 10.0

Afterwards = Literal["keep", "retry", "delete"]


@dataclass(frozen=True)
class Fault:
    """Something breaks, and is whole again after a while.

    Args:
        begins: Seconds from the start of the run.
        ends: The same; a fault that is over at once ends when it begins.
        place: What is hit; a place has one fault at a time.
        kind: How.
        choice: From 0 to 1: which of what is there, where the kind needs one.
    """

    begins: float
    ends: float
    place: str
    kind: str
    choice: float


@dataclass(frozen=True)
class Submission:
    """A caller and the life of its job.

    Args:
        at: Seconds from the start of the run.
        key: The Idempotency-Key.
        photos: Item i is the photo of this id, and called `<i>-<photo>`.
        tries: How often the caller repeats a POST that got no answer.
        cancel_after: Seconds from the acceptance; None for most.
        afterwards: What the caller does once the job is terminal.
    """

    at: float
    key: str
    tenant: str
    photos: tuple[str, ...]
    top_k: int
    cache: bool
    priority: str
    tries: int
    cancel_after: float | None
    afterwards: Afterwards

    @property
    def items(self) -> tuple[str, ...]:
        """The ids of the job's items."""
        return tuple(f"{index:02}-{photo}" for index, photo in enumerate(self.photos))


@dataclass(frozen=True)
class Schedule:
    """All of a run."""

    faults: tuple[Fault, ...]
    submissions: tuple[Submission, ...]


@dataclass(frozen=True)
class Place:
    """Where faults happen.

    Args:
        kinds: Of faults, with the longest time that each lasts.
        pause_seconds: On average, from the end of one to the next.
        safe_seconds: At the start, without any.
    """

    kinds: dict[str, float]
    pause_seconds: float
    safe_seconds: float = 1.0


WORKER = Place({"kill parent": 1.0, "kill child": 0.0, "kill group": 1.0, "freeze": 6.0}, 12.0)
PLACES = {
    "explain-1": WORKER,
    "explain-2": WORKER,
    "control": Place({"kill group": 2.0, "freeze": 4.0}, 18.0),
    "api": Place({"kill group": 1.0, "freeze": 3.0}, 15.0),
    "redis": Place(
        {"kill": 1.5, "kill and forget": 1.5, "flush": 0.0, "cut connections": 0.0, "pause": 4.0},
        12.0,
        REDIS_IS_SAFE_SECONDS,
    ),
    "store": Place({"down": 5.0, "503": 4.0, "reset": 4.0, "lose answers": 5.0, "slow": 5.0}, 9.0),
    "messages": Place({"repeat": 0.0, "garbage": 0.0}, 6.0),
}


def schedule(seed: int, seconds: float) -> Schedule:
    """The run of a seed."""
    faults = [
        fault
        for name, place in PLACES.items()
        for fault in _faults(Random(f"{seed} {name}"), name, place, seconds)  # noqa: S311 - repeatable is what it must be
    ]
    return Schedule(
        faults=tuple(sorted(faults, key=lambda fault: (fault.begins, fault.place))),
        submissions=tuple(_submissions(Random(f"{seed} submissions"), seed, seconds)),  # noqa: S311
    )


def _faults(random: Random, name: str, place: Place, seconds: float) -> Iterator[Fault]:
    begins = place.safe_seconds + random.uniform(0, place.pause_seconds)
    while begins < seconds:
        kind = random.choice(list(place.kinds))
        ends = min(begins + random.uniform(0.3, 1) * place.kinds[kind], seconds)
        yield Fault(round(begins, 2), round(ends, 2), name, kind, random.random())
        begins = ends + random.uniform(0.3, 1.7) * place.pause_seconds


def _submissions(random: Random, seed: int, seconds: float) -> Iterator[Submission]:
    at = 0.0
    while at < seconds:
        photos = random.choices([photo.id for photo in POOL], k=random.choice(SIZES))
        if random.random() < 0.3:
            photos[random.randrange(len(photos))] = BROKEN.id
        yield Submission(
            at=round(at, 2),
            key=f"chaos-{seed}-{at:.2f}",
            tenant=random.choice("ab"),
            photos=tuple(photos),
            top_k=random.choice((1, 1, 1, 2)),
            cache=random.random() < 0.5,
            priority=random.choice(("interactive", "normal", "bulk")) if len(photos) <= 16 else "normal",
            tries=random.choice((1, 2, 100)),
            cancel_after=random.uniform(0, 4) if random.random() < 0.2 else None,
            afterwards=random.choice(("keep", "keep", "retry", "delete")),
        )
        at += random.uniform(0.2, 1.8) * SECONDS_PER_JOB
