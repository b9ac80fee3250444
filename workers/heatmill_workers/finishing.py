"""Make a complete job terminal: count its commit records, write the tables and final.json, let Redis forget it."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import structlog

from heatmill import keys, records
from heatmill.errors import JobDeleted
from heatmill.keys import JobId
from heatmill.progress import job_state, map_status, summary
from heatmill.read_ahead import read_ahead
from heatmill.schemas import AcceptedJob, Counts, Job, Plan, Row
from heatmill.storage import WriteConflict
from heatmill_workers.control import HOLD_SECONDS, Control, is_complete
from heatmill_workers.tables import write_tables

FINISHER = "finisher"

log = structlog.get_logger()


def finish(control: Control, job: JobId) -> None:
    """Write the tables and the terminal job, remove the open marker, and let Redis forget the job.

    A job that is not complete is left alone, whoever asks: what is terminal stays so.
    """
    token = uuid4().hex
    if not control.state.hold(job, FINISHER, token, HOLD_SECONDS):
        return
    try:
        if not control.storage.exists(keys.final(job)):
            accepted = records.load_request(control.storage, job)
            progress = control.state.progress(job)
            if progress is None or not is_complete(progress):
                log.warning("not finished: it is not complete", job=str(job))
                return
            if not _write_final(control, accepted, token):
                # Redis said more than the store holds, which is the truth.
                control.state.forget(job)
                return
    except JobDeleted:
        # It was final, and Redis went away before it could forget the job.
        log.info("deleted meanwhile", job=str(job))
    finally:
        control.state.let_go(job, FINISHER, token)
    control.storage.delete([keys.open_marker(job)])
    control.state.forget(job)


def _held_rows(control: Control, job: JobId, token: str, counts: Counter[str], counted: set[int]) -> Iterator[Row]:
    """All rows, how many there are of each kind, and of which shards, while the hold on the finish is prolonged."""
    numbers = records.committed_numbers(control.storage, job)
    for header, rows in read_ahead(partial(records.load_commit, control.storage, job), numbers):
        control.state.hold(job, FINISHER, token, HOLD_SECONDS)
        counts.update(succeeded=header.succeeded, failed=header.failed, cached=header.cached)
        counted.add(header.shard)
        yield from rows


def _write_final(control: Control, accepted: AcceptedJob, token: str) -> bool:
    """Whether it is written: not where the records do not add up to the whole job."""
    storage, job = control.storage, JobId(accepted.tenant, accepted.id)
    counts: Counter[str] = Counter(succeeded=0, failed=0, cached=0)
    counted = set[int]()
    write_tables(storage, job, _held_rows(control, job, token, counts, counted))
    cancelled = storage.exists(keys.cancelled(job))
    plan = records.load_plan(storage, job)
    if not cancelled and (plan is None or len(counted) < plan.shards + plan.makes_map):
        log.error("commit records are missing", job=str(job), found=len(counted))
        return False
    final = _final_job(control, accepted, plan, Counts(total=None, **counts), cancelled=cancelled)
    if final.expires_at is not None:
        storage.put(keys.expiry_marker(job, final.expires_at), b"")
    try:
        storage.write_once(keys.final(job), final.model_dump_json().encode())
    except WriteConflict:
        # What it counted is not known here.
        log.info("finished elsewhere", job=str(job))
        return True
    log.info("finished", job=str(job), state=final.state, **final.counts.model_dump())
    if cancelled:
        # What a worker that was frozen has written since the records were counted; later ones take theirs back.
        late = (number for number in records.committed_numbers(storage, job) if number not in counted)
        storage.delete([keys.commit(job, number) for number in late])
    return True


def _final_job(control: Control, accepted: AcceptedJob, plan: Plan | None, counts: Counts, *, cancelled: bool) -> Job:
    job = JobId(accepted.tenant, accepted.id)
    progress = control.state.progress(job)
    total = plan.results if plan else 0
    counts = counts.model_copy(update={"total": total, "cancelled": total - counts.done if cancelled else 0})
    started = datetime.fromtimestamp(progress.started_at, UTC) if progress and progress.started_at else None
    finished = datetime.now(UTC)
    kept = control.settings.retention_days
    busy = max((finished - started).total_seconds(), 1e-3) if started else None
    return Job(
        id=job.job,
        state="cancelled" if cancelled and total == 0 else job_state(counts, started=True),
        done=True,
        progress=1.0,
        counts=counts,
        started_at=started,
        finished_at=finished,
        expires_at=None if kept is None else finished + timedelta(days=kept),
        items_per_second=round(plan.items / busy, 3) if plan and busy and not cancelled else None,
        error=plan.error if plan else None,
        **summary(accepted) | {"map": map_status(control.storage, job, cancelled=cancelled)},
    )
