"""What the benchmarks of the control plane do to a job from outside, and how they look at it."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.local_stack import LocalStack
from heatmill.coordination.throughput import record_throughput
from heatmill.storage.keys import JobId
from heatmill_api.http.responses import page_token

Row = dict[str, Any]
MODEL = "efficientnet_lite0"
LONG_SECONDS = 300.0
STATUS_PAUSE_SECONDS = 0.02
PAGES = 10
PAGE_ROWS = 100


def manifest(stack: LocalStack, items: int, image: str = "photos/%07d.jpg") -> str:
    """A manifest of so many images, which need not be there."""
    name = f"{items}.jsonl"
    with tempfile.TemporaryFile() as file:
        for number in range(items):
            where = image % number if "%" in image else image
            file.write(b'{"image":"s3://%s/%s"}\n' % (stack.sources.bucket.encode(), where.encode()))
        file.seek(0)
        stack.sources.put(name, file)
    return f"s3://{stack.sources.bucket}/{name}"


def submit(
    stack: LocalStack, caller: httpx.Client, source: str | None, *, pace: float = 0.03, cache: bool = True
) -> tuple[JobId, float]:
    """POST a job over a source, or of one image; how long the answer took.

    Args:
        stack: What runs.
        caller: Of one tenant.
        source: Its URI.
        pace: Seconds per pass, from which shards are cut; by the default 200 items make one.
        cache: Whether results of earlier jobs are taken.
    """
    record_throughput(stack.state, MODEL, "cpu", pace)
    what = {"items": [{"image": "s3://sources/one.jpg"}]} if source is None else {"source": {"uri": source}}
    body = {"model": MODEL, "methods": [{"name": "saliency"}], "priority": "bulk", "cache": cache, **what}
    started = time.perf_counter()
    answer = caller.post("/jobs", json=body)
    seconds = time.perf_counter() - started
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    tenant = caller.headers["authorization"].removeprefix("Bearer ")
    return JobId(tenant, answer.json()["id"]), seconds


@contextmanager
def crew(workers: int, seconds: float) -> Iterator[Row]:
    """Simulated workers at work; what they saw is known afterwards."""
    command = [sys.executable, "-m", "benchmarks.simulated_workers", str(workers), str(seconds)]
    seen: Row = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield seen
        seen.update(json.loads(process.communicate()[0]))


def status_times(caller: httpx.Client, job: JobId, done: Callable[[], bool]) -> list[float]:
    """Ask for the job's status until something is true; seconds of each answer."""
    times: list[float] = []
    while not (times and done()):
        started = time.perf_counter()
        assert caller.get(f"/jobs/{job.job}").status_code == httpx.codes.OK
        times.append(time.perf_counter() - started)
        time.sleep(STATUS_PAUSE_SECONDS)
    return times


def page_ms(caller: httpx.Client, job: JobId, shard: int) -> float:
    """A page of results from a shard on, at the median."""
    times: list[float] = []
    for _ in range(PAGES):
        started = time.perf_counter()
        answer = caller.get(f"/jobs/{job.job}/results", params={"page_token": page_token(f"{shard}.0")})
        times.append(time.perf_counter() - started)
        assert len(answer.json()["results"]) == PAGE_ROWS, answer.text[:500]
    return 1000 * statistics.median(times)


def items_of(stack: LocalStack, job: JobId) -> int | None:
    """Items of a job, once it is planned."""
    progress = stack.state.progress(job)
    return None if progress is None else progress.items


def committed(stack: LocalStack, job: JobId) -> float:
    """Shards that are committed; all, once the job is forgotten."""
    progress = stack.state.progress(job)
    return float("inf") if progress is None else progress.committed


def redis_bytes(stack: LocalStack, job: JobId) -> int:
    """What Redis holds of a job."""
    client = stack.state.client
    return sum(client.memory_usage(name) or 0 for name in client.scan_iter(f"heatmill:{{{job}}}:*"))


def middle_and_end(times: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    ordered = sorted(times)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
