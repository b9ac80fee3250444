"""List a tenant's jobs."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Self

from flask import Response
from pydantic import ConfigDict, Field, model_validator

from heatmill.errors import JobNotFound, RecordDamaged, RecordTooNew
from heatmill.jobs import index as job_index
from heatmill.jobs.status import load_job
from heatmill.schemas import Job, JobPage, JobState
from heatmill.storage.keys import JOB_PATTERN, JobId
from heatmill_api.context import ApiContext, api_context, job_id, tenant
from heatmill_api.http.damage import ask_for_repair
from heatmill_api.http.responses import bad_page_token, linked, page_token, read_page_token, reply
from heatmill_api.http.routing import Parameters, answers, versioned

ENTRY = re.compile(f"[0-9]{{17}}:{JOB_PATTERN}")
METADATA = "metadata."
MAX_PAGE = 200
# Jobs that one page looks at: a filter that fits few jobs makes pages short, not slow.
MAX_SCANNED = 1000
# A job's params may be long: a page has at least one job.
MAX_PAGE_BYTES = 1 << 20
READERS = 8

api = versioned("job_list", "jobs")


class ListQuery(Parameters):
    """Which jobs; `metadata.KEY=VALUE` parameters narrow the choice too."""

    model_config = ConfigDict(frozen=True, extra="allow")

    state: JobState | None = None
    page_size: int = Field(50, ge=1, description=f"At most {MAX_PAGE} are given.")
    page_token: str = Field("", max_length=100, description="`next_page_token` of the page before.")

    @model_validator(mode="after")
    def _knows_its_parameters(self) -> Self:
        if unknown := [name for name in self.model_extra or {} if not name.startswith(METADATA)]:
            raise ValueError(f"unknown parameter {min(unknown)!r}; `metadata.KEY` filters by metadata")
        return self

    def fits(self, job: Job) -> bool:
        """Whether a job is among those asked for."""
        wanted = {name.removeprefix(METADATA): value for name, value in (self.model_extra or {}).items()}
        return self.state in (None, job.state) and wanted.items() <= job.metadata.items()


@api.get("/jobs", responses=answers({200: JobPage}, 422, 503))
def list_jobs(query: ListQuery) -> Response:
    """List jobs, newest first.

    A page may be shorter than asked for; an empty `next_page_token` is the end. `metadata.KEY=VALUE` filters.
    """
    context, size = api_context(), min(query.page_size, MAX_PAGE)
    before = _read_token(query.page_token)
    entries = job_index.newest_first(context.storage, context.state, tenant(), before)
    found: list[Job] = []
    unreadable: dict[str, str] = {}
    looked, weight = 0, 0
    for entry, job in _scanned(context, entries, unreadable):
        if job is not None and query.fits(job):
            weight += len(job.model_dump_json())
            if found and weight > MAX_PAGE_BYTES:
                break
            found.append(linked(job))
        before, looked = entry, looked + 1
        if len(found) == size or looked == MAX_SCANNED:
            break
    else:
        before = ""
    token = page_token(before) if before else ""
    return reply(JobPage(jobs=tuple(found), next_page_token=token, unreadable=unreadable))


def _scanned(
    context: ApiContext, entries: Iterator[str], unreadable: dict[str, str]
) -> Iterator[tuple[str, Job | None]]:
    """Each entry with its job, a few read at a time; None where it is gone or cannot be read."""
    while batch := list(islice(entries, READERS)):
        yield from zip(batch, _read(context, batch, unreadable), strict=True)


def _read(context: ApiContext, entries: list[str], unreadable: dict[str, str]) -> list[Job | None]:
    """The jobs of these entries, in order; None of an entry whose job is gone or unreadable.

    Args:
        context: The collaborators.
        entries: Of the list.
        unreadable: Takes the jobs whose records cannot be read, and why.
    """
    names = [job_id(job_index.job_of(entry)) for entry in entries]

    def read(name: JobId) -> Job | None:
        try:
            return load_job(context.storage, context.state, name)
        except JobNotFound:
            return None
        except (RecordDamaged, RecordTooNew) as error:
            unreadable[name.job] = str(error)
            if isinstance(error, RecordDamaged):
                ask_for_repair(context, error)
            return None

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, names))


def _read_token(token: str) -> str:
    if not token:
        return ""
    entry = read_page_token(token)
    if not ENTRY.fullmatch(entry):
        raise bad_page_token()
    return entry
