"""The Python client: submit images, wait, read results. Needs httpx, pydantic and Pillow only."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, Field

from heatmill.client.downloads import OnFetch, Origin, fetch_map, fetch_rows
from heatmill.client.http import Retries, Transport, read_answer, service_url
from heatmill.client.local_items import NOT_STORED
from heatmill.client.submission import Images, SubmitOptions, list_items, request_body, sent_items
from heatmill.client.uploads import OnRefused, OnUpload, is_uri, upload
from heatmill.errors import InvalidRequest, JobDeleted, JobNotFound
from heatmill.schemas import (
    LONGEST_WAIT_SECONDS,
    ItemRequest,
    Job,
    JobPage,
    JobState,
    MethodRequest,
    ResultPage,
    Row,
    StoredFile,
    Verdict,
)
from heatmill.schemas.feature_map import JobMap

DEFAULT_URL = "http://127.0.0.1:8000"
PROGRESS_SECONDS = 2
PAUSE_SECONDS = 0.5
# Few enough that signed URLs are used before they end.
PAGE_ROWS = 100


class WaitTimeout(TimeoutError):
    """The job was not done in the time that the caller gave; it goes on."""


class ResultFilter(TypedDict, total=False):
    """Which rows `Client.results` gives; all where nothing is said."""

    status: Literal["succeeded", "failed"]
    method: str
    verdict: Verdict


class Catalogue(BaseModel):
    """The methods or the models."""

    entries: list[dict[str, Any]] = Field(validation_alias=AliasChoices("methods", "models"))


class Client:
    """A heatmill service.

        with Client("http://127.0.0.1:8000") as client:
            job = client.submit("efficientnet_lite0", ["grad_cam"], images=["cat.jpg"])
            client.wait(job.id)
            for row in client.results(job.id):
                print(row.item, row.target)

    What is refused raises a `RequestError` whose class says why. Failures that pass are retried; `ServiceUnavailable`
    is raised when the patience of `retries` ends. Every method may raise both. Thread-safe.

    Args:
        url: Where the service listens.
        api_key: For services that ask for one.
        retries: How long failures that pass are tried again.

    Raises:
        InvalidRequest: The URL is not one.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None, *, retries: Retries | None = None) -> None:
        self.url = service_url(url)
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._api = Transport(self.url, headers, retries or Retries())
        # The key is the service's: the object store must not see it.
        self._store = Transport("", {}, retries or Retries())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()
        self._store.close()

    def submit(
        self,
        model: str,
        methods: Iterable[str | MethodRequest],
        *,
        images: Images = (),
        items: Iterable[ItemRequest] = (),
        source: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Ask for heatmaps and return at once; a submission that is tried again gives one job.

        Args:
            model: Its name in `models()`.
            methods: Names, or `MethodRequest` where a method takes params; none are needed where a map is asked for.
            images: Files on this machine. A mapping gives each its item id; else that is the file's name where all lie
                in one folder, and the path as given where not. A file whose name cannot be an id is a failed row.
            items: Items, whose images are files on this machine, which are uploaded, or URIs.
            source: An `s3://bucket/prefix/` or `s3://.../manifest.jsonl` that lists the items.
            **options: See `SubmitOptions`.

        Raises:
            InvalidRequest: Nothing to explain, a file that cannot be read or is named twice, items of one id, or a
                field out of bounds.
        """
        key = options.pop("idempotency_key", uuid4().hex)
        told = options.pop("on_upload", None), options.pop("on_refused", None)
        target = options.pop("target", None)
        if source is not None and target is not None:
            raise InvalidRequest("a source's items name their targets themselves, in its manifest")
        named = list_items(images, items, target)
        body = request_body(model, methods, source, options.pop("map", None)) | options
        if named:
            body["items"] = self._stored(named, body, *told)
        return read_answer(self._api.send("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key}), Job)

    def job(self, job_id: str, wait_seconds: int = 0) -> Job:
        """A job as it is now, or as soon as it is done within this time."""
        params = {"wait": wait_seconds} if wait_seconds else {}
        return read_answer(self._api.send("GET", _path(job_id), params=params), Job)

    def wait(
        self, job_id: str, on_progress: Callable[[Job], None] | None = None, timeout_seconds: float | None = None
    ) -> Job:
        """Wait until a job is done.

        Args:
            job_id: The job.
            on_progress: Called with the job about every two seconds, and when it is done.
            timeout_seconds: For ever where none is given.

        Raises:
            WaitTimeout: It is not done by then. The job goes on.
        """
        deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        poll_seconds = LONGEST_WAIT_SECONDS if on_progress is None else PROGRESS_SECONDS
        while True:
            asked = time.monotonic()
            job = self.job(job_id, wait_seconds=max(0, math.ceil(min(poll_seconds, deadline - asked))))
            if on_progress is not None:
                on_progress(job)
            if job.done:
                return job
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"job {job_id} is {job.state} after {timeout_seconds:g} seconds; it goes on")
            # A service that has too many waiters answers at once.
            time.sleep(max(0.0, asked + PAUSE_SECONDS - time.monotonic()))

    def results(self, job_id: str, *, follow: bool = False, **only: Unpack[ResultFilter]) -> Iterator[Row]:
        """A job's rows, in the order of its items, page by page.

        Args:
            job_id: The job.
            follow: Go on while the job runs, until its last row; else end with the rows there are.
            **only: See `ResultFilter`.
        """
        token = ""
        while True:
            params = {"page_size": PAGE_ROWS, "page_token": token, **only}
            page = read_answer(self._api.send("GET", f"{_path(job_id)}/results", params=params), ResultPage)
            yield from page.results
            if page.complete:
                return
            if page.next_page_token == token:
                if not follow:
                    return
                time.sleep(PAUSE_SECONDS)
            token = page.next_page_token

    def fetch(
        self, job_id: str, directory: Path | str, *, overlay: bool = False, on_fetch: OnFetch | None = None
    ) -> int:
        """Download the heatmaps and attributions that a job has so far, and write `results.jsonl` about them.

        Where the job has a map, it is written beside them, as `map.png`, `.parquet`, `.jsonl` and `.json`.

        Args:
            job_id: The job.
            directory: Made where it is missing; files of the same names are replaced.
            overlay: Also write what the model saw of each photo, and the heatmaps laid over that. Of a job without
                previews they are left out: `photo_missing` in `results.jsonl` says so.
            on_fetch: Told how many rows have their files.

        Returns:
            How many rows there are.

        Raises:
            OSError: The folder cannot be written.
        """
        rows = fetch_rows(self.results(job_id), Path(directory), Origin(self._file, overlay), on_fetch)
        if "map" in self.job(job_id).links:
            fetch_map(self.map(job_id), Path(directory), self._store.read)
        return rows

    def map(self, job_id: str) -> JobMap:
        """What is known of a job's map, with URLs of its files.

        Raises:
            ResultNotFound: The job has none, or not yet.
        """
        return read_answer(self._api.send("GET", f"{_path(job_id)}/map"), JobMap)

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what is done stays.

        Raises:
            JobFinished: There is nothing left to stop.
        """
        return read_answer(self._api.send("POST", f"{_path(job_id)}:cancel"), Job)

    def retry(self, job_id: str) -> Job:
        """Run the failed items of a job that is done again, as a new job; `JobUnfinished` while it runs."""
        headers = {"Idempotency-Key": uuid4().hex}
        return read_answer(self._api.send("POST", f"{_path(job_id)}:retry", headers=headers), Job)

    def delete(self, job_id: str) -> None:
        """Delete a job that is done, with all its results; `JobUnfinished` while it runs."""
        # Of one that was sent twice, the second finds nothing.
        with suppress(JobDeleted):
            self._api.send("DELETE", _path(job_id))

    def jobs(self, state: JobState | None = None, metadata: Mapping[str, str] | None = None) -> Iterator[Job]:
        """Jobs, newest first, page by page; those in a state, or with these metadata, where they are given."""
        only = {f"metadata.{key}": value for key, value in (metadata or {}).items()}
        params: dict[str, str] = {**only, **({} if state is None else {"state": state})}
        while True:
            page = read_answer(self._api.send("GET", "/v1/jobs", params=params), JobPage)
            yield from page.jobs
            for job, reason in page.unreadable.items():
                warnings.warn(f"job {job} cannot be read: {reason}", stacklevel=2)
            if not page.next_page_token:
                return
            params["page_token"] = page.next_page_token

    def methods(self) -> list[dict[str, Any]]:
        """The methods: name, what each does and needs, and its params as JSON Schema."""
        return self._catalogue("methods")

    def models(self) -> list[dict[str, Any]]:
        """The models: name, labels, and what each supports."""
        return self._catalogue("models")

    def _stored(
        self,
        items: list[ItemRequest],
        body: Mapping[str, Any],
        on_upload: OnUpload | None,
        on_refused: OnRefused | None,
    ) -> list[dict[str, Any]]:
        """The items with their local images uploaded.

        A mistake in the rest of the request is found before a single byte travels.
        """
        local = [Path(item.image) for item in items if not is_uri(item.image)]
        if local:
            trial = {**body, "items": sent_items(items, repeat(NOT_STORED)), "validate_only": True}
            self._api.send("POST", "/v1/jobs", json=trial)
        return sent_items(items, iter(upload(self._api, self._store, local, on_upload, on_refused)))

    def _catalogue(self, kind: str) -> list[dict[str, Any]]:
        return read_answer(self._api.send("GET", f"/v1/{kind}"), Catalogue).entries

    def _file(self, stored: StoredFile) -> bytes:
        return self._store.read(stored.url or "", stored.range)


def _path(job_id: str) -> str:
    if not job_id.isalnum():
        raise JobNotFound(f"there is no job {job_id!r}")
    return f"/v1/jobs/{job_id}"
