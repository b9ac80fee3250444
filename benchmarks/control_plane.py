"""The control plane: jobs of up to a million items, a small job beside a flood, one to 64 workers.

API, control worker, Redis and SeaweedFS are the real ones, each a process; explain workers are simulated, but for the
rows `real workers`. A process' memory is its peak since a phase began.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import skimage.data
from PIL import Image

from benchmarks.local_stack import LocalStack, forget_peak, held_mib, local_stack, peak_mib, wait_until
from benchmarks.submitting import (
    LONG_SECONDS,
    Row,
    committed,
    crew,
    items_of,
    manifest,
    middle_and_end,
    page_ms,
    redis_bytes,
    status_times,
    submit,
)
from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.keys import JobId

# The timer's own 3 s would be most of what a rebuild takes.
TIMER_SECONDS = 0.25
CREW = 8
FLOOD_ITEMS = 100_000
WINDOW = 8
PAGE_ITEMS = 200
WRITERS = 16
# 20 items make a shard.
REAL_PACE = 0.3
REAL_SHARD_ITEMS = 20
REAL_ITEMS = 160


def measure(*, quick: bool) -> list[Row]:
    """All rows: by size of the job, fairness, by number of workers."""
    sizes = (1000, 10_000) if quick else (1000, 10_000, 100_000, 1_000_000)
    crews = (1, 64) if quick else (1, 2, 4, 8, 16, 32, 64)
    with local_stack() as stack, stack.api() as callers:
        caller = callers["flood"]
        return [
            *(of_size(stack, caller, manifest(stack, items), items) for items in sizes),
            of_size(stack, caller, *prefix(stack, 2000 if quick else 10_000)),
            fairness(stack, callers),
            *(simulated(stack, caller, workers) for workers in crews),
            *([] if quick else real(stack, caller)),
        ]


def of_size(stack: LocalStack, caller: httpx.Client, source: str, items: int) -> Row:
    """One job of so many items, from its POST to its table; half-way, Redis is wiped."""
    with stack.control_worker(timer_seconds=TIMER_SECONDS, window_shards=4 * CREW) as control:
        row: Row = {"what": "job over a " + ("manifest" if source.endswith(".jsonl") else "prefix"), "items": items}
        row["idle_mib"] = round(held_mib(control.pid))
        job, row["accept_seconds"] = submit(stack, caller, source)
        row["plan_seconds"] = wait_until(lambda: items_of(stack, job) is not None, LONG_SECONDS)
        row["plan_items_per_second"] = items / row["plan_seconds"]
        row["plan_peak_mib"] = round(peak_mib(control.pid))
        row["shards"] = shards = planned(stack, job, items)
        with crew(CREW, 0.0):
            times = status_times(caller, job, lambda: committed(stack, job) >= shards // 2)
            row["redis_bytes_per_shard"] = redis_bytes(stack, job) / shards
        row |= rebuilt(stack, job, control.pid)
        with crew(CREW, 0.0):
            times += status_times(caller, job, lambda: committed(stack, job) >= shards)
        row |= finished(stack, job, control.pid)
    assert load_job(stack.storage, stack.state, job).counts.succeeded == items
    row["status_ms_median"], row["status_ms_p99"] = (1000 * part for part in middle_and_end(times))
    row["first_page_ms"] = page_ms(caller, job, 0)
    row["last_page_ms"] = page_ms(caller, job, shards - 1)
    return row


def planned(stack: LocalStack, job: JobId, items: int) -> int:
    """The shards of a job whose plan is complete."""
    plan = records.load_plan(stack.storage, job)
    assert plan is not None
    assert (plan.items, plan.error) == (items, None)
    return plan.shards


def rebuilt(stack: LocalStack, job: JobId, pid: int) -> Row:
    """How long Redis does not know the job after it was wiped, and what that takes; nothing of a job that has ended."""
    forget_peak(pid)
    stack.state.client.flushall()
    ended = keys.final(job)
    seconds = wait_until(lambda: stack.state.progress(job) is not None or stack.storage.exists(ended), LONG_SECONDS)
    if stack.storage.exists(ended):
        return {}
    return {"rebuild_seconds": seconds, "rebuild_peak_mib": round(peak_mib(pid))}


def finished(stack: LocalStack, job: JobId, pid: int) -> Row:
    """From the last commit to the terminal job, whose tables are written by then."""
    forget_peak(pid)
    seconds = wait_until(lambda: stack.storage.exists(keys.final(job)), LONG_SECONDS)
    return {"finish_seconds": seconds, "finish_peak_mib": round(peak_mib(pid))}


def prefix(stack: LocalStack, items: int) -> tuple[str, int]:
    """A prefix of so many objects, and their number; they are no images."""
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda number: stack.sources.put(f"prefix/{number:07}.jpg", b"x"), range(items)))
    return f"s3://{stack.sources.bucket}/prefix/", items


def fairness(stack: LocalStack, callers: dict[str, httpx.Client]) -> Row:
    """How many shards of a flood are begun between a small job's POST and its own shard, and how soon it is done."""
    asked, waits = [], []
    source = manifest(stack, FLOOD_ITEMS)
    with stack.control_worker(timer_seconds=TIMER_SECONDS, window_shards=WINDOW):
        floods = [submit(stack, callers["flood"], source)[0] for _ in range(3)]
        wait_until(lambda: all(items_of(stack, flood) for flood in floods), LONG_SECONDS)
        with crew(4, 0.1) as seen:
            for _ in range(10):
                asked.append(time.monotonic())
                small, _ = submit(stack, callers["small"], None)
                wait_until(lambda small=small: stack.storage.exists(keys.final(small)))  # type: ignore[misc]
                waits.append(time.monotonic() - asked[-1])
        for flood in floods:
            callers["flood"].post(f"/jobs/{flood.job}:cancel")
            wait_until(lambda flood=flood: stack.storage.exists(keys.final(flood)))  # type: ignore[misc]
    begun = sorted(seen["claims"])
    own = [when for when, name in begun if name.startswith("small/")]
    before = [sum(start < when < end for when, _ in begun) for start, end in zip(asked, own, strict=True)]
    return {
        "what": "one image beside 3 floods",
        "items": 3 * FLOOD_ITEMS,
        "workers": 4,
        "window_shards": WINDOW,
        "shards_before_median": statistics.median(before),
        "shards_before_most": max(before),
        "small_job_ms_median": 1000 * statistics.median(waits),
    }


def simulated(stack: LocalStack, caller: httpx.Client, workers: int, seconds: float = 1.0) -> Row:
    """Shards per second of so many workers, each of which takes a second for a shard."""
    shards = max(4, int(workers * 4 / seconds))
    with stack.control_worker(timer_seconds=3, window_shards=max(WINDOW, 2 * workers)):
        job, _ = submit(stack, caller, manifest(stack, shards * PAGE_ITEMS))
        wait_until(lambda: items_of(stack, job) is not None, LONG_SECONDS)
        with crew(workers, seconds) as seen:
            wait_until(lambda: committed(stack, job) >= shards, LONG_SECONDS)
        wait_until(lambda: stack.storage.exists(keys.final(job)), LONG_SECONDS)
    # The first message of each waited for it, and not the other way round.
    began, idle = sorted(when for when, _ in seen["claims"]), sorted(seen["idle"][workers:])
    rate = len(began) / (began[-1] - began[0] + seconds)
    lag, slowest = middle_and_end(idle)
    return {
        "what": "simulated workers",
        "workers": workers,
        "window_shards": max(WINDOW, 2 * workers),
        "shards": shards,
        "shards_per_second": rate,
        "of_ideal": rate * seconds / workers,
        "feed_lag_ms_median": 1000 * lag,
        "feed_lag_ms_p99": 1000 * slowest,
    }


def real(stack: LocalStack, caller: httpx.Client) -> list[Row]:
    """Items per second of one and of two explain workers, one thread each: as far as the cores allow."""
    Image.fromarray(skimage.data.coffee()).convert("RGB").save(stack.folder / "coffee.jpg")
    stack.sources.put("coffee.jpg", (stack.folder / "coffee.jpg").read_bytes())
    rows: list[Row] = []
    for workers in (1, 2):
        with stack.control_worker(), stack.explain_worker(1):
            if workers == 1:
                rate = explained_per_second(stack, caller, workers)
            else:
                with stack.explain_worker(2):
                    rate = explained_per_second(stack, caller, workers)
        rows.append({"what": "real workers", "workers": workers, "items": REAL_ITEMS, "items_per_second": rate})
    rows[1]["of_ideal"] = rows[1]["items_per_second"] / rows[0]["items_per_second"] / 2
    return rows


def explained_per_second(stack: LocalStack, caller: httpx.Client, workers: int) -> float:
    """The rate of saliency, once all workers have loaded the model."""
    for _ in range(2):
        source = manifest(stack, REAL_ITEMS, "coffee.jpg")
        job, _ = submit(stack, caller, source, pace=REAL_PACE, cache=False)
        wait_until(lambda job=job: stack.storage.exists(keys.final(job)), LONG_SECONDS)  # type: ignore[misc]
    final = load_job(stack.storage, stack.state, job)
    assert final.counts.succeeded == REAL_ITEMS
    names = records.committed_names(stack.storage, job)
    headers = [records.load_header(stack.storage, job, *name) for name in names]
    assert len({header.worker for header in headers if header}) == workers
    return final.items_per_second or 0.0
