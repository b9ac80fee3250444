"""A caller of the stack who also sees its store and its Redis, past every fault."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.throughput import record_throughput
from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from tests.faults.history import METHOD, History, Pictures
from tests.faults.photos import Photo, slow
from tests.faults.s3_proxy import S3Proxy
from tests.faults.stack import KEYS, MODEL, Stack, wait_until
from tests.faults.watching import LISTS, Watcher

# "Within a stated time": twice the slowest recovery of docs/operations.md at these settings, on a machine that is busy.
PATIENCE_SECONDS = 60.0
WRITERS = 8
EXPLAIN = ("explain-1", "explain-2")
TENANTS = {tenant: secret for secret, tenant in KEYS.items()}


@dataclass
class Service:
    """The running stack.

    Args:
        stack: Its processes.
        storage: The real store, not by way of the proxy.
        state: Its Redis.
        watcher: Sees what Redis holds.
        recoveries: What each row of the table took to heal.
        seconds_per_pass: Said to be measured when a job is submitted.
    """

    stack: Stack
    storage: S3Storage
    state: RedisJobStore
    watcher: Watcher
    recoveries: dict[str, float]
    seconds_per_pass: float | None = None
    _reference: dict[str, tuple[str, str]] = field(default_factory=dict)
    _warm: set[int | None] = field(default_factory=set)

    @property
    def proxy(self) -> S3Proxy:
        """Between the processes and the store."""
        return self.stack.proxy

    def submit(self, photos: Sequence[Photo], tenant: str = "a", **request: Any) -> JobId:
        """Upload and submit."""
        self.upload(photos, tenant)
        answer = self.post(photos, tenant, **request)
        assert answer.status_code == 202, answer.text
        return JobId(tenant, answer.json()["id"])

    def upload(self, photos: Sequence[Photo], tenant: str = "a") -> None:
        """Store images where uploads lie."""
        with ThreadPoolExecutor(WRITERS) as pool:
            contents = {keys.blob(tenant, photo.sha256): photo.data for photo in photos}
            list(pool.map(self.storage.put, contents, contents.values()))

    def post(
        self, photos: Sequence[Photo], tenant: str = "a", idempotency_key: str = "", **request: Any
    ) -> httpx.Response:
        """`POST /v1/jobs` of images that are stored."""
        # A pace that an earlier test has measured would change how many items make a shard.
        self.state.client.delete(f"heatmill:pace:{MODEL}")
        if self.seconds_per_pass is not None:
            record_throughput(self.state, MODEL, "cuda", self.seconds_per_pass)
        headers = {"Authorization": f"Bearer {TENANTS[tenant]}"}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        items = [{"id": photo.id, "image": f"upload://{photo.sha256}"} for photo in photos]
        body = {"model": MODEL, "methods": [{"name": METHOD}], "items": items, **request}
        return httpx.post(f"{self.stack.url}/v1/jobs", json=body, headers=headers, timeout=30, trust_env=False)

    def ask(self, path: str, method: str = "GET", tenant: str = "a") -> httpx.Response:
        """Anything else of the API."""
        headers = {"Authorization": f"Bearer {TENANTS[tenant]}"}
        return httpx.request(method, f"{self.stack.url}{path}", headers=headers, timeout=30, trust_env=False)

    def cancel(self, job: JobId) -> None:
        """`POST /v1/jobs/<job>:cancel`, of a job that may have ended."""
        status = self.ask(f"/v1/jobs/{job.job}:cancel", "POST", job.tenant).status_code
        assert status in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT)

    def images_read(self) -> int:
        """How often an image was asked for since the test began."""
        return sum(method == "GET" and "/blobs/" in path for method, path in self.proxy.seen)

    def wait_for_commits(self, job: JobId, count: int = 1) -> None:
        """Until so many shards are committed."""
        wait_until(lambda: len(records.committed(self.storage, job).shards) >= count, PATIENCE_SECONDS, "a commit")

    def wait_for_claims(self, job: JobId, count: int = 1) -> None:
        """Until so many workers are in the middle of a shard."""
        wait_until(lambda: self.claims(job) >= count, PATIENCE_SECONDS, "workers at work")

    def claims(self, job: JobId) -> int:
        """How many workers hold a shard."""
        progress = self.state.progress(job)
        return 0 if progress is None else progress.working

    def queued(self) -> int:
        """Messages that wait for an explain worker."""
        return self.state.waiting(LISTS)

    def consumers(self) -> int:
        """Explain workers that wait for a message at this moment."""
        clients = self.state.client.client_list()
        return sum(client["name"] == "heatmill-explain" and "b" in client["flags"] for client in clients)

    def wait(self, job: JobId, seconds: float = PATIENCE_SECONDS) -> History:
        """Until the job is terminal."""
        wait_until(
            lambda: self.storage.exists(keys.final(job)) and not self.storage.exists(keys.open_marker(job)),
            seconds,
            f"{job} is terminal",
        )
        return History(self.storage, job)

    def healed(self, row: str, job: JobId, since: float) -> History:
        """Wait for the job's end, and note how long it took since the fault was over."""
        history = self.wait(job)
        self.recoveries[row] = time.monotonic() - since
        return history

    def reference(self, photos: Sequence[Photo]) -> Pictures:
        """What a run without faults gives for these images; each is run once."""
        missing = [photo for photo in photos if photo.id not in self._reference]
        if missing:
            self._reference.update(self.wait(self.submit(missing)).pictures())
        return self._reference

    def warm_up(self) -> None:
        """Wait until both explain workers take shards: one that has just started, or lost its child, loads torch."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            job = self.submit(slow(8))
            while not (both := self.claims(job) == len(EXPLAIN)) and not self.storage.exists(keys.final(job)):
                time.sleep(0.05)
            self.wait(job)
            if both:
                self._warm = self._children()
                return
        raise AssertionError("not both explain workers take shards")

    def most_attempts(self, job: JobId) -> int:
        """The highest number of attempts that a shard of a job was seen to take."""
        return self.watcher.attempts[job]

    def clean(self) -> None:
        """As every test finds it: everything runs, no fault, no job left open by a test that failed."""
        self.proxy.heal()
        self.stack.supervise()
        left = [marker.key for marker in self.storage.list(keys.OPEN_PREFIX)]
        if left:
            self.storage.delete(left)
            self.state.client.flushall()
        if self._children() != self._warm:
            self.warm_up()
        self.watcher.queued = 0
        self.proxy.seen.clear()

    def _children(self) -> set[int | None]:
        return {self.stack.child(name) for name in EXPLAIN}


def batch() -> list[Photo]:
    """A job of six shards, of which each takes about a second."""
    return slow(24)
