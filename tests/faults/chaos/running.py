"""One chaos run: a fault-free reference, the faults and the callers, healing, and the verdict."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_api.jobs.accept import job_for
from tests.faults.chaos.breaking import Breaker
from tests.faults.chaos.calling import Callers
from tests.faults.chaos.checking import violations
from tests.faults.chaos.evidence import Evidence, Reference, job_names, markers, memory, stored_job, stored_jobs
from tests.faults.chaos.log import AnyEvent, Log, Submitted
from tests.faults.chaos.schedule import PHOTOS, POOL, Schedule, schedule
from tests.faults.service import PATIENCE_SECONDS, Service

TENANTS = ("a", "b")
MOST_TARGETS = 2


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Args:
        seed: Repeats its faults and submissions.
        folder: Holds the schedule and the history.
        logs: Of the processes.
        evidence: What the checker went by.
        violations: What is wrong.
        seconds: That it took.
    """

    seed: int
    folder: Path
    logs: Path
    evidence: Evidence
    violations: Sequence[str]
    seconds: float

    def report(self) -> str:
        """The verdict, and where to look."""
        jobs = self.evidence.jobs.values()
        results = [result for job in jobs for result in job.results]
        lines = [
            f"seed {self.seed}: {len(self.violations)} violations in {self.seconds:.0f} s",
            f"{len(self.evidence.events)} events, {len(jobs)} jobs, {len(results)} results",
            f"items blamed for deaths: {sum(result.error == 'worker_crashed' for result in results)}",
            f"healed {self.evidence.healed_seconds} s after the last fault",
            *self.violations,
        ]
        if self.violations:
            lines += [
                f"again: make chaos SEED={self.seed}, for as long",
                f"schedule: {self.folder / 'schedule.json'}",
                f"history: {self.folder / 'history.jsonl'}",
                f"logs: {self.logs}",
            ]
        return "\n".join(lines)


def run(service: Service, seed: int, seconds: float, folder: Path) -> Run:
    """Break a running stack for a while, let it heal, and judge what is left.

    Args:
        service: Whole; its workers are warm.
        seed: Of the schedule.
        seconds: That faults and submissions go on.
        folder: Gets the schedule and the history.
    """
    started = time.monotonic()
    planned = schedule(seed, seconds)
    (folder / "schedule.json").write_text(json.dumps(asdict(planned), indent=1))
    log = Log(folder / "history.jsonl")
    log.path.unlink(missing_ok=True)
    reference = fault_free(service)
    before = job_names(service.storage)
    healed = break_and_heal(service, planned, log)
    evidence = gather(service, log, reference, before, healed)
    return Run(seed, folder, service.stack.folder, evidence, violations(evidence), time.monotonic() - started)


def fault_free(service: Service) -> Reference:
    """What each photo gives without faults; the cache has no part in it."""
    for tenant in TENANTS:
        service.upload(list(PHOTOS.values()), tenant)
    answer = service.post(POOL, top_k=MOST_TARGETS, cache=False)
    assert answer.status_code == 202, answer.text
    history = service.wait(JobId("a", answer.json()["id"]))
    results = stored_job(service.storage, history.job).results
    assert len(results) == len(POOL) * MOST_TARGETS
    assert all(result.picture for result in results)
    return {(result.item, result.rank): result for result in results}


def break_and_heal(service: Service, planned: Schedule, log: Log) -> float | None:
    """Run the schedule; the seconds from its last fault until nothing was left to do, None where that took too long."""
    breaker, callers = Breaker(service, planned.faults, log), Callers(service.stack.url, log)
    try:
        callers.start(planned.submissions)
        breaker.run()
        over = time.monotonic()
        while not (callers.are_through() and is_done(service, log)):
            if time.monotonic() - over > PATIENCE_SECONDS:
                return None
            breaker.keep_up_for(0.2)
        return round(time.monotonic() - over, 1)
    finally:
        callers.stop()
        service.proxy.heal()
        service.stack.supervise()


def is_done(service: Service, log: Log) -> bool:
    """Whether nothing is open, nothing is trash, nothing waits, and Redis remembers nothing."""
    names = by_key(log.events()).values()
    marked = [JobId.parse(marker.split("/", 1)[1]) for marker in markers(service.storage)]
    waiting = [job for job in marked if str(job) in names and service.storage.exists(keys.request(job))]
    if waiting or service.queued():
        return False
    return not list(memory(service.state))


def by_key(events: Sequence[AnyEvent]) -> dict[tuple[str, str], str]:
    """The job that each Idempotency-Key stands for."""
    return {
        (event.tenant, event.key): str(job_for(event.tenant, event.key))
        for event in events
        if isinstance(event, Submitted)
    }


def gather(service: Service, log: Log, reference: Reference, before: Sequence[str], healed: float | None) -> Evidence:
    """Everything the checker goes by."""
    events = log.events()
    return Evidence(
        events=tuple(events),
        jobs=stored_jobs(service.storage, before),
        reference=reference,
        by_key=by_key(events),
        markers=tuple(markers(service.storage)),
        memory=tuple(memory(service.state)),
        attempts={str(job): most for job, most in list(service.watcher.attempts.items())},
        healed_seconds=healed,
    )
