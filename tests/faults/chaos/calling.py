"""The callers of a chaos run: each submits a job, watches it, cancels, retries or deletes it, and writes all down."""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Event as Flag
from typing import Any, Literal

import httpx

from tests.faults.chaos.log import Asked, Log, RowsRead, StatusRead, Submitted
from tests.faults.chaos.schedule import METHOD, PHOTOS, Submission
from tests.faults.service import TENANTS
from tests.faults.stack import MODEL

# A job has a caller of its own, which waits most of the time, for its turn to submit too.
CALLERS = 1000
# Above the longest time that a part is frozen.
ANSWER_SECONDS = 10.0
PAUSE_SECONDS = 1.0
JSON_LINES = {"Accept": "application/jsonl"}
NONE = 0
TERMINAL = ("succeeded", "partly_failed", "failed", "cancelled")


@dataclass
class Callers:
    """Everybody who uses the API during a run.

    Args:
        url: Of the API.
        log: Gets what they ask and are told.
    """

    url: str
    log: Log
    _closing: Flag = field(default_factory=Flag)
    _lives: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Connect; nothing is sent yet."""
        self._pool = ThreadPoolExecutor(CALLERS)
        self._client = httpx.Client(base_url=self.url, timeout=ANSWER_SECONDS, trust_env=False)

    def start(self, submissions: tuple[Submission, ...]) -> None:
        """Begin the life of each job at its time, from now on."""
        started = time.monotonic()
        self._lives = [self._pool.submit(self._live, submission, started) for submission in submissions]

    def are_through(self) -> bool:
        """Whether all jobs are as their callers want them."""
        return all(life.done() for life in self._lives)

    def stop(self) -> None:
        """Call off who is not through, and raise what ended a caller."""
        self._closing.set()
        self._pool.shutdown()
        self._client.close()
        for life in self._lives:
            life.result()

    def _live(self, plan: Submission, started: float) -> None:
        if self._closing.wait(max(0.0, started + plan.at - time.monotonic())):
            return
        job = self._submit(plan)
        if job is None:
            return
        accepted = time.monotonic()
        cancelled = plan.cancel_after is None
        state = ""
        while not is_over(state) and not self._closing.wait(PAUSE_SECONDS):
            if not cancelled and time.monotonic() - accepted >= (plan.cancel_after or 0):
                cancelled = self._ask("cancel", job)
            self._read_rows(job)
            state = self._read_status(job)
        self._read_rows(job)
        self._go_on(plan, job, state)

    def _go_on(self, plan: Submission, job: str, state: str) -> None:
        """What a caller does with a job that is terminal."""
        if plan.afterwards == "retry" and state in ("failed", "partly_failed"):
            again = self._retry(plan, job)
            while again and not is_over(self._read_status(again)) and not self._closing.wait(PAUSE_SECONDS):
                self._read_rows(again)
        elif plan.afterwards == "delete" and is_over(state):
            while not self._ask("delete", job) and not self._closing.wait(PAUSE_SECONDS):
                pass

    def _submit(self, plan: Submission) -> str | None:
        items = [
            {"id": item, "image": f"upload://{PHOTOS[photo].sha256}"}
            for item, photo in zip(plan.items, plan.photos, strict=True)
        ]
        body = {
            "model": MODEL,
            "methods": [{"name": METHOD}],
            "items": items,
            "top_k": plan.top_k,
            "cache": plan.cache,
            "priority": plan.priority,
        }
        about = {"tenant": plan.tenant, "key": plan.key, "items": plan.items, "top_k": plan.top_k}
        return self._make("/v1/jobs", body, about, plan.tries)

    def _retry(self, plan: Submission, job: str) -> str | None:
        about = {"tenant": plan.tenant, "key": f"{plan.key}-retry", "top_k": plan.top_k, "retry_of": job}
        return self._make(f"{path(job)}:retry", None, about, plan.tries)

    def _make(self, where: str, body: dict[str, Any] | None, about: dict[str, Any], tries: int) -> str | None:
        """POST until the answer says what has become of it, or patience ends; the job that was made."""
        for _ in range(tries):
            begun = time.time()
            self.log.write(Submitted(phase="invoked", begun=begun, ended=begun, **about))
            status, answer = self._call("POST", where, about["tenant"], body, {"Idempotency-Key": about["key"]})
            ending: dict[str, Any] = {**about, "begun": begun, "ended": time.time(), "status": status}
            if status == HTTPStatus.ACCEPTED:
                job = f"{about['tenant']}/{json.loads(answer)['id']}"
                self.log.write(Submitted(phase="acknowledged", job=job, **ending))
                return job
            self.log.write(Submitted(phase="failed", **ending))
            if not is_transient(status) or self._closing.wait(PAUSE_SECONDS):
                return None
        return None

    def _ask(self, what: Literal["cancel", "delete"], job: str) -> bool:
        """Whether the answer is one that lasts."""
        begun = time.time()
        method, where = ("POST", f"{path(job)}:cancel") if what == "cancel" else ("DELETE", path(job))
        status, _ = self._call(method, where, job.split("/", maxsplit=1)[0])
        self.log.write(Asked(what=what, job=job, begun=begun, ended=time.time(), status=status))
        return not is_transient(status)

    def _read_status(self, job: str) -> str:
        begun = time.time()
        status, answer = self._call("GET", path(job), job.split("/", maxsplit=1)[0])
        told: dict[str, Any] = {}
        if status == HTTPStatus.OK:
            body = json.loads(answer)
            counts = {name: body["counts"][name] for name in ("total", "succeeded", "failed")}
            told = {"state": body["state"], **counts}
        self.log.write(StatusRead(job=job, begun=begun, ended=time.time(), status=status, **told))
        return str(told.get("state", ""))

    def _read_rows(self, job: str) -> None:
        begun = time.time()
        status, answer = self._call("GET", f"{path(job)}/results", job.split("/", maxsplit=1)[0], headers=JSON_LINES)
        rows = [json.loads(line) for line in answer.splitlines()] if status == HTTPStatus.OK else []
        names = tuple(f"{row['item']} {row['method']} {row['rank']}" for row in rows)
        self.log.write(RowsRead(job=job, begun=begun, ended=time.time(), status=status, rows=names))

    def _call(
        self,
        method: str,
        where: str,
        tenant: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where none came."""
        known = {"Authorization": f"Bearer {TENANTS[tenant]}", **(headers or {})}
        try:
            answer = self._client.request(method, where, json=body, headers=known)
        except httpx.TransportError:
            return NONE, b""
        return answer.status_code, answer.content


def path(job: str) -> str:
    """Where a job is read."""
    return f"/v1/jobs/{job.split('/')[1]}"


def is_over(state: str) -> bool:
    """Whether a job in this state stays in it."""
    return state in TERMINAL


def is_transient(status: int) -> bool:
    """Whether to ask again."""
    return status in (NONE, HTTPStatus.SERVICE_UNAVAILABLE)
