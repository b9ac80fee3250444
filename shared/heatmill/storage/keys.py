"""Object keys: where everything lies in the bucket. Keys are functions of ids, so writing twice writes the same."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

OPEN_PREFIX = "open/"
TRASH_PREFIX = "trash/"
EXPIRY_PREFIX = "expiry/"
MODELS_PREFIX = "models/"
PROBE_PREFIX = "probe/"
TENANT_PATTERN = "[a-z0-9-]{1,63}"
JOB_PATTERN = "[0-9a-f]{32}"
MARKED = re.compile(f"({TENANT_PATTERN})/({JOB_PATTERN})")
WHEN = re.compile("[0-9]{8}T[0-9]{6}Z")
COMMIT_NAME = re.compile(r"([0-9]{6,7})(?:\.([0-9]))?\.jsonl")


class CommitName(NamedTuple):
    """Which commit record.

    Args:
        part: None for the record of a whole shard: that of a map, and those of earlier versions.
    """

    shard: int
    part: int | None = None


@dataclass(frozen=True)
class JobId:
    """A job's full name: ids are unique within a tenant only."""

    tenant: str
    job: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.job}"

    @classmethod
    def parse(cls, text: str) -> "JobId":
        """Read back what `str` wrote."""
        tenant, job = text.split("/")
        return cls(tenant, job)

    @property
    def prefix(self) -> str:
        """Everything the job owns starts with this."""
        return f"{self.tenant}/jobs/{self.job}/"


class ShardId(NamedTuple):
    """A shard of a job."""

    job: JobId
    number: int


def reserved_names() -> frozenset[str]:
    """First parts of keys that belong to no tenant: those of every `_PREFIX` of this module."""
    return frozenset(value.rstrip("/") for name, value in globals().items() if name.endswith("_PREFIX"))


def probe(name: str) -> str:
    """An object that is written to try the store, and deleted at once."""
    return f"{PROBE_PREFIX}{name}"


def open_marker(job: JobId) -> str:
    """Present until the job is terminal."""
    return f"{OPEN_PREFIX}{job}"


def trash_marker(job: JobId) -> str:
    """Present from when a job is deleted until its objects are gone."""
    return f"{TRASH_PREFIX}{job}"


def expiry_marker(job: JobId, when: datetime) -> str:
    """Says when a job is to be deleted; markers sort by that."""
    return f"{EXPIRY_PREFIX}{when.astimezone(UTC):%Y%m%dT%H%M%SZ}/{job}"


def marked_job(prefix: str, key: str) -> JobId | None:
    """The job that a marker below a prefix is of; None for what heatmill did not write there."""
    name = key.removeprefix(prefix)
    if prefix == EXPIRY_PREFIX:
        when, _, name = name.partition("/")
        if not WHEN.fullmatch(when):
            return None
    found = MARKED.fullmatch(name)
    return None if found is None else JobId(found[1], found[2])


def read_expiry_marker(key: str) -> tuple[JobId, datetime]:
    """Read back what `expiry_marker` wrote."""
    when, _, job = key.removeprefix(EXPIRY_PREFIX).partition("/")
    return JobId.parse(job), datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def request(job: JobId) -> str:
    """The accepted request, write-once."""
    return f"{job.prefix}job.json"


def plan(job: JobId) -> str:
    """Shard and result counts, written after the last shard file."""
    return f"{job.prefix}plan.json"


def shard(job: JobId, number: int) -> str:
    """The items of one shard."""
    return f"{job.prefix}shards/{number:06}.jsonl"


def commit(job: JobId, number: int, part: int | None = None) -> str:
    """The commit record of one part of a shard, or of a whole one; written last and once."""
    return f"{_commits_from(job, number)}.{_part(part)}jsonl"


def commits(job: JobId) -> str:
    """Prefix of the job's commit records."""
    return f"{job.prefix}results/"


def shard_commits(job: JobId, number: int) -> str:
    """Prefix of the commit records of one shard."""
    return f"{_commits_from(job, number)}."


def before_commits(job: JobId, number: int) -> str:
    """A key after the commit records of all shards below this one, and before its own."""
    return _commits_from(job, number)


def commit_name(job: JobId, key: str) -> CommitName | None:
    """Read back what `commit` wrote; None where the key is of something else."""
    match = COMMIT_NAME.fullmatch(key.removeprefix(commits(job)))
    if match is None:
        return None
    name = CommitName(int(match[1]), None if match[2] is None else int(match[2]))
    # Seven digits of which the first is none of the number's are a name that nobody wrote.
    return name if commit(job, *name) == key else None


def table(job: JobId, part: int) -> str:
    """All rows as Parquet; the first part has no number, since most jobs have one part only."""
    return f"{job.prefix}results.parquet" if part == 0 else f"{job.prefix}results-{part:03}.parquet"


def heatmap(job: JobId, shard_number: int, name: str) -> str:
    """One picture; `name` is `<item in shard>.<method>.<target>`."""
    return f"{job.prefix}heatmaps/{shard_number:06}/{name}.png"


def attribution(job: JobId, shard_number: int, name: str) -> str:
    """One float16 array; `name` as for `heatmap`."""
    return f"{job.prefix}attributions/{shard_number:06}/{name}.npy"


def previews(job: JobId, shard_number: int, part: int, digest: str) -> str:
    """The previews of one part of a shard, one behind the other; a worker that made others writes another object."""
    return f"{job.prefix}previews/{shard_number:06}.{part}.{digest[:16]}"


def shard_tar(job: JobId, shard_number: int, part: int) -> str:
    """All files of one part of a shard, in place of single ones. Earlier versions wrote one tar for a whole shard."""
    return f"{job.prefix}shards.out/{shard_number:06}.{part}.tar"


def features(job: JobId, shard_number: int, part: int | None = None) -> str:
    """The features of the items of a part, from which the map is made; earlier versions wrote them for whole shards."""
    return f"{shard_features(job, shard_number)}{_part(part)}npy"


def shard_features(job: JobId, shard_number: int) -> str:
    """Prefix of the features of one shard."""
    return f"{job.prefix}features/{shard_number:06}."


def job_map(job: JobId, ending: str) -> str:
    """The map: `json` tells of it and is written last, `jsonl` and `parquet` hold its points, `png` shows it."""
    return f"{job.prefix}map.{ending}"


def set_aside(key: str) -> str:
    """Where a damaged object of a job is kept, to be looked at by a person."""
    tenant, jobs, job, name = key.split("/", 3)
    return f"{tenant}/{jobs}/{job}/damaged/{name}"


def owner(key: str) -> JobId:
    """The job that an object belongs to."""
    tenant, _, job, _ = key.split("/", 3)
    return JobId(tenant, job)


def cancelled(job: JobId) -> str:
    """Marker: the caller asked to stop."""
    return f"{job.prefix}cancelled"


def final(job: JobId) -> str:
    """The terminal job, write-once."""
    return f"{job.prefix}final.json"


def cached(tenant: str, digest: str) -> str:
    """Cache entry; `digest` is the SHA-256 of everything that the result depends on."""
    return f"{tenant}/cache/{digest}"


def model_facts(key: str) -> str:
    """What the proof of a model found."""
    return f"{MODELS_PREFIX}{key}/facts.json"


def newest_facts(model: str) -> str:
    """Which facts are the newest of a model, by its name."""
    return f"{MODELS_PREFIX}names/{model}.json"


def blob(tenant: str, sha256: str) -> str:
    """An uploaded image, by its content."""
    return f"{tenant}/blobs/{sha256}"


def _commits_from(job: JobId, number: int) -> str:
    return f"{commits(job)}{number:06}"


def _part(part: int | None) -> str:
    return "" if part is None else f"{part}."
