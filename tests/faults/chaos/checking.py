"""The checker, in the manner of Jepsen's total-queue: a pure function from the evidence to what is wrong with it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from heatmill.settings import Settings
from tests.faults.chaos.evidence import Evidence, StoredJob
from tests.faults.chaos.log import Asked, Broken, RowsRead, StatusRead, Submitted
from tests.faults.chaos.schedule import BROKEN, METHOD
from tests.faults.stack import SHORT

# Each item that is found to kill workers allows for one more, up to as many again; the last gives the shard up.
MOST_ATTEMPTS = 2 * Settings.model_fields["max_attempts"].default + 1
# After a cancel: the batch at hand, which is a fraction of a second here; the store tells whole seconds.
BATCH_SECONDS = 2.0
# What a fault of Redis may leave behind: counts are less than the truth until the timer has rebuilt them, for which the
# control worker may have to be started, on a machine that is busy.
REBUILT_SECONDS = 12.0
CLAIM_SECONDS = float(SHORT["claim_seconds"])
ACCEPTED = 202
EXPECTED_ANSWERS = {0, 200, 202, 204, 503}
# A worker that Redis and the store keep waiting, or that is frozen, is late.
LATENESS = ("redis", "store", "explain-1", "explain-2", "control")


def violations(evidence: Evidence) -> list[str]:
    """Everything that is wrong; an empty list is a pass."""
    return [
        *_unhealed(evidence),
        *_lost(evidence),
        *_strangers(evidence),
        *_wrong_results(evidence),
        *_blamed_too_often(evidence),
        *_wrong_status_reads(evidence),
        *_wrong_row_reads(evidence),
        *_late_commits(evidence),
        *_left_over(evidence),
        *_wrong_answers(evidence),
    ]


def acknowledged(evidence: Evidence) -> dict[str, Submitted]:
    """The jobs that callers were promised."""
    return {
        event.job: event
        for event in evidence.events
        if isinstance(event, Submitted) and event.phase == "acknowledged" and event.job is not None
    }


def submissions(evidence: Evidence) -> dict[str, Submitted]:
    """What was asked for, by the job that it would be, acknowledged or not."""
    return {
        evidence.by_key[event.tenant, event.key]: event for event in evidence.events if isinstance(event, Submitted)
    }


def deleted(evidence: Evidence) -> set[str]:
    """Jobs that somebody has asked to delete, answered or not."""
    return {event.job for event in evidence.events if isinstance(event, Asked) and event.what == "delete"}


def _unhealed(evidence: Evidence) -> Iterator[str]:
    if evidence.healed_seconds is None:
        yield "the service was still not done long after the last fault"


def _lost(evidence: Evidence) -> Iterator[str]:
    """An acknowledged job is terminal; one that is not acknowledged is, or was never there."""
    for job in acknowledged(evidence):
        if job not in evidence.jobs:
            yield f"{job}: acknowledged and lost"
    for name, stored in evidence.jobs.items():
        if stored.state is None and not stored.is_deleted:
            yield f"{name}: not terminal, of {stored.objects} objects"


def _strangers(evidence: Evidence) -> Iterator[str]:
    """A key is one job, whoever repeats it."""
    known = submissions(evidence)
    yield from (f"{job}: a job that nobody asked for" for job in evidence.jobs if job not in known)
    jobs = defaultdict(set)
    for job, event in acknowledged(evidence).items():
        jobs[event.tenant, event.key].add(job)
    yield from (f"key {key[1]}: {len(found)} jobs" for key, found in jobs.items() if len(found) > 1)


def _wrong_results(evidence: Evidence) -> Iterator[str]:
    for name, asked in submissions(evidence).items():
        job = evidence.jobs.get(name)
        if job is None or job.state is None:
            continue
        items = asked.items if asked.retry_of is None else _failed_items(evidence.jobs.get(asked.retry_of))
        wanted = Counter(f"{item} {METHOD} {rank}" for item in items for rank in range(asked.top_k))
        for fault in (*_miscounted(job, wanted), *_different(evidence, job)):
            yield f"{name}: {fault}"


def _failed_items(job: StoredJob | None) -> tuple[str, ...]:
    """The items of a retry."""
    results = job.results if job else ()
    return tuple(dict.fromkeys(result.item for result in results if result.error))


def _miscounted(job: StoredJob, wanted: Counter[str]) -> Iterator[str]:
    """One row for each item, method and target; a cancelled job has some of them, by whole shards."""
    found = Counter(result.name for result in job.results)
    yield from (f"{number} rows of {name}" for name, number in found.items() if number > 1)
    yield from (f"row of {name}, which nobody asked for" for name in found - wanted if name not in wanted)
    if job.state != "cancelled" and (missing := sorted(wanted - found)):
        yield f"no row of {', '.join(missing)}"
    yield from (f"record {record.shard} does not fit its own header" for record in job.records if not record.is_sound)
    failed = sum(result.error is not None for result in job.results)
    # A job that was cancelled before its items were listed has none.
    total = 0 if job.state == "cancelled" and not job.shards else wanted.total()
    rows = (total, len(job.results) - failed, failed, total - len(job.results))
    if job.counts != rows:
        yield f"its counts are {job.counts}, its rows {rows}"


def _different(evidence: Evidence, job: StoredJob) -> Iterator[str]:
    """Heatmaps are those of a run without faults, errors those that the images deserve."""
    for result in job.results:
        photo = result.item.split("-", 1)[1]
        if result.error is not None:
            expected = "image_unreadable" if photo == BROKEN.id else "worker_crashed"
            if result.error != expected:
                yield f"{result.name} is {result.error}"
            continue
        known = evidence.reference.get((photo, result.rank))
        if known is None or (known.target, known.picture) != (result.target, result.picture):
            yield f"{result.name} is not what a run without faults gives"


def _blamed_too_often(evidence: Evidence) -> Iterator[str]:
    """A death blames the one item that was noted, so that there are fewer such items than deaths."""
    blamed = {
        (name, result.item)
        for name, job in evidence.jobs.items()
        for result in job.results
        if result.error == "worker_crashed"
    }
    deaths = sum(_deaths(event) for event in evidence.events if isinstance(event, Broken))
    if len(blamed) > deaths:
        yield f"{len(blamed)} items are blamed for {deaths} deaths"


def _deaths(fault: Broken) -> int:
    """How many claims a fault may have ended."""
    if fault.place.startswith("explain"):
        return 1
    return 2 * (fault.place in ("redis", "messages"))


def _wrong_status_reads(evidence: Evidence) -> Iterator[str]:
    reads = defaultdict(list)
    for event in evidence.events:
        if isinstance(event, StatusRead) and event.state:
            reads[event.job].append(event)
    for name, found in reads.items():
        found.sort(key=lambda read: read.ended)
        job = evidence.jobs.get(name)
        if job is not None and not job.is_deleted:
            yield from (f"{name}: {fault}" for read in found for fault in _beyond_truth(read, job))
        for earlier, later in pairwise(found):
            if _goes_back(earlier, later) and not _redis_was_broken(evidence, earlier.begun, later.ended):
                yield f"{name}: read {_told(earlier)}, then {_told(later)}"


def _beyond_truth(read: StatusRead, job: StoredJob) -> Iterator[str]:
    if job.state is None:
        return
    total, succeeded, failed, _ = job.counts
    if read.succeeded > succeeded or read.failed > failed or read.total not in (None, total):
        yield f"read {_told(read)}, and the truth is {job.counts}"


def _goes_back(earlier: StatusRead, later: StatusRead) -> bool:
    if later.begun < earlier.ended:
        return False
    return later.succeeded < earlier.succeeded or later.failed < earlier.failed or (_over(earlier) and not _over(later))


def _over(read: StatusRead) -> bool:
    return read.state not in ("queued", "running")


def _told(read: StatusRead) -> tuple[str, int | None, int, int]:
    return read.state, read.total, read.succeeded, read.failed


def _redis_was_broken(evidence: Evidence, begun: float, ended: float) -> bool:
    return any(
        fault.place == "redis" and fault.begun <= ended and begun <= fault.ended + REBUILT_SECONDS
        for fault in evidence.events
        if isinstance(fault, Broken)
    )


def _wrong_row_reads(evidence: Evidence) -> Iterator[str]:
    """Rows are read from the store, which forgets nothing: no fault excuses one that is gone again."""
    gone = deleted(evidence)
    seen: dict[str, RowsRead] = {}
    for event in sorted((e for e in evidence.events if isinstance(e, RowsRead)), key=lambda e: e.ended):
        if event.status != 200 or event.job in gone:
            continue
        if len(set(event.rows)) != len(event.rows):
            yield f"{event.job}: a row was read twice"
        job = evidence.jobs.get(event.job, StoredJob())
        if unknown := set(event.rows) - {result.name for result in job.results}:
            yield f"{event.job}: rows were read that are not there: {sorted(unknown)}"
        before = seen.setdefault(event.job, event)
        if before.ended <= event.begun and set(before.rows) - set(event.rows):
            yield f"{event.job}: {len(before.rows)} rows were read, then {len(event.rows)}"
        seen[event.job] = event


def _late_commits(evidence: Evidence) -> Iterator[str]:
    """A cancelled job commits nothing after one more batch, but for what a fault held up in a worker's hands."""
    cancels = {
        event.job: event
        for event in evidence.events
        if isinstance(event, Asked) and event.what == "cancel" and event.status == ACCEPTED
    }
    for name, cancel in cancels.items():
        job = evidence.jobs.get(name, StoredJob())
        late = [record for record in job.records if record.written > cancel.ended + BATCH_SECONDS]
        allowed = sum(_held_up(evidence, cancel, record.written) for record in late)
        if len(late) > allowed:
            yield f"{name}: {len(late)} shards were committed after the cancel, {allowed} of them held up by a fault"


def _held_up(evidence: Evidence, cancel: Asked, written: float) -> bool:
    return any(
        fault.place in LATENESS
        and fault.begun <= written
        and cancel.begun - CLAIM_SECONDS <= fault.ended + REBUILT_SECONDS
        for fault in evidence.events
        if isinstance(fault, Broken)
    )


def _left_over(evidence: Evidence) -> Iterator[str]:
    for marker in evidence.markers:
        name = marker.split("/", 1)[1]
        # A POST that died between the marker and the job: repair waits an hour before it takes such a marker away.
        if name in evidence.jobs or marker.startswith("trash/") or name in acknowledged(evidence):
            yield f"{marker} is left"
    yield from (f"Redis still knows {name}" for name in evidence.memory)
    for name, job in evidence.jobs.items():
        if job.is_deleted and job.objects != 1:
            yield f"{name}: deleted, and {job.objects} objects are left with its tombstone"
        if evidence.attempts.get(name, 0) > MOST_ATTEMPTS:
            yield f"{name}: a shard took {evidence.attempts[name]} attempts"


def _wrong_answers(evidence: Evidence) -> Iterator[str]:
    """Callers are told what is so, or to come again."""
    gone = deleted(evidence)
    for event in evidence.events:
        if isinstance(event, Broken) or event.status in EXPECTED_ANSWERS:
            continue
        # A delete that got no answer is repeated; a cancel may come after the end; a retry after a cancel.
        if isinstance(event, Asked) and event.status in ({409} if event.what == "cancel" else {404}):
            continue
        if isinstance(event, StatusRead | RowsRead) and event.status == 404 and event.job in gone:
            continue
        yield f"{event.what} was answered with {event.status}"
