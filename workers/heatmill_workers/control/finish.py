"""Make a complete job terminal: count its commit records, write the tables and final.json, let Redis forget it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from uuid import uuid4

import structlog

from heatmill.coordination.conditions import note_condition
from heatmill.coordination.progress import JobProgress
from heatmill.errors import JobDeleted, JobNotFound, RecordDamaged, StorageUnavailable
from heatmill.jobs import records
from heatmill.jobs.damaged import set_aside
from heatmill.jobs.documents import encode
from heatmill.jobs.status import derive_state, map_status
from heatmill.schemas import CommitHeader, Counts, Job, MapRequest, Plan, Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage, WriteConflict
from heatmill.storage.keys import CommitName, JobId
from heatmill.storage.read_ahead import read_ahead
from heatmill_workers.control.parquet import write_tables
from heatmill_workers.control.plan import HOLD_SECONDS
from heatmill_workers.control.schedule import ControlContext, is_complete

FINISHER = "finisher"

log = structlog.get_logger()


def finish(control: ControlContext, job: JobId) -> None:
    """Write the tables and the terminal job, remove the open marker, and let Redis forget the job.

    A job that is not complete is left alone, whoever asks: what is terminal stays so.
    """
    token = uuid4().hex
    if not control.state.acquire_lock(job, FINISHER, token, HOLD_SECONDS):
        return
    try:
        if records.load_final(control.storage, job) is None and not _is_deleted(control, job):
            progress = control.state.progress(job)
            if progress is None or not is_complete(progress):
                log.warning("not finished: it is not complete", job=str(job))
                return
            if not _write_final(control, job, progress, token):
                # Redis said more than the store holds, which is the truth.
                control.state.forget(job)
                return
    except StorageUnavailable as error:
        note_condition(control.state, job, f"it cannot be ended: {error}", "waiting_for_storage")
        raise
    except RecordDamaged as error:
        # Repair makes Redis know the job without it.
        set_aside(control.storage, error)
        control.state.forget(job)
        return
    finally:
        control.state.release_lock(job, FINISHER, token)
    control.storage.delete([keys.open_marker(job)])
    control.state.forget(job)
    # Feed tells of some complete jobs at a time.
    control.dispatcher.feed()


def _is_deleted(control: ControlContext, job: JobId) -> bool:
    """Whether it was final, and Redis went away before it could forget the job."""
    try:
        records.load_request(control.storage, job)
    except JobDeleted:
        log.info("deleted meanwhile", job=str(job))
        return True
    except (JobNotFound, RecordDamaged):
        # Redis remembers what was asked for.
        return False
    return False


@dataclass
class _Counted:
    """What the end of a job is counted from.

    Args:
        names: The records.
        shards: How many shards and maps they make whole.
    """

    names: set[CommitName] = field(default_factory=set)
    shards: int = 0
    results: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(records.COUNTED, 0)))


def _held_rows(control: ControlContext, job: JobId, token: str, counted: _Counted) -> Iterator[Row]:
    """All rows, while they are counted and the hold on the finish is prolonged."""
    names = (name for _, found in records.committed_shards(control.storage, job) for name in found)
    load = partial(_load, control.storage, job)
    for _, of_shard in groupby(read_ahead(load, names), lambda loaded: loaded[0].shard):
        headers = []
        for name, header, rows in of_shard:
            control.state.acquire_lock(job, FINISHER, token, HOLD_SECONDS)
            counted.results.update({kind: getattr(header, kind) for kind in records.COUNTED})
            counted.names.add(name)
            headers.append(header)
            yield from rows
        counted.shards += records.is_whole(headers)


def _load(storage: S3Storage, job: JobId, name: CommitName) -> tuple[CommitName, CommitHeader, Iterator[Row]]:
    return name, *records.load_commit(storage, job, *name)


def _write_final(control: ControlContext, job: JobId, progress: JobProgress, token: str) -> bool:
    """Whether it is written: not where the records do not add up to the whole job."""
    storage = control.storage
    counted = _Counted()
    write_tables(storage, job, _held_rows(control, job, token, counted))
    is_marked = storage.exists(keys.cancelled(job))
    if progress.cancelled and not is_marked:
        # A store that was full has not taken it.
        storage.put(keys.cancelled(job), b"{}")
    progress = replace(progress, cancelled=progress.cancelled or is_marked)
    plan = records.load_plan(storage, job)
    if not progress.cancelled and (plan is None or counted.shards < plan.shards + plan.makes_map):
        log.error("commit records are missing", job=str(job), found=counted.shards)
        return False
    final = _final_job(control, job, progress, plan, Counts(total=None, **counted.results))
    if final.expires_at is not None:
        storage.put(keys.expiry_marker(job, final.expires_at), b"")
    try:
        storage.write_once(keys.final(job), encode(final))
    except WriteConflict:
        # What it counted is not known here.
        log.info("finished elsewhere", job=str(job))
        return True
    log.info("finished", job=str(job), state=final.state, **final.counts.model_dump())
    if progress.cancelled:
        # What a worker that was frozen has written since the records were counted; later ones take theirs back.
        late = (name for name in records.committed_names(storage, job) if name not in counted.names)
        storage.delete([keys.commit(job, *name) for name in late])
    return True


def _final_job(control: ControlContext, job: JobId, progress: JobProgress, plan: Plan | None, counts: Counts) -> Job:
    total = plan.results if plan else progress.counts.total or counts.done
    counts = counts.model_copy(update={"total": total, "cancelled": total - counts.done if progress.cancelled else 0})
    started = datetime.fromtimestamp(progress.started_at, UTC) if progress.started_at else None
    finished = datetime.now(UTC)
    kept = control.settings.retention_days
    busy = max((finished - started).total_seconds(), 1e-3) if started else None
    return Job(
        id=job.job,
        state="cancelled"
        if progress.cancelled and (plan is None or total == 0)
        else derive_state(counts, started=True),
        done=True,
        progress=1.0,
        counts=counts,
        started_at=started,
        finished_at=finished,
        expires_at=None if kept is None else finished + timedelta(days=kept),
        items_per_second=round(plan.items / busy, 3) if plan and busy and not progress.cancelled else None,
        error=plan.error if plan else None,
        **progress.summary | {"map": map_status(control.storage, job, _map_of(progress), cancelled=progress.cancelled)},
    )


def _map_of(progress: JobProgress) -> MapRequest | None:
    asked = progress.summary["map"]
    return None if asked is None else MapRequest.model_validate(asked)
