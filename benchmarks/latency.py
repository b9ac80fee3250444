"""One image: from the POST to its result, beside a bare Celery task that does nothing and the compute in memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from celery import Celery

from benchmarks.pipeline import photo
from benchmarks.service import Service, jpegs, service
from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import BUNDLED_MODEL
from heatmill.schemas import MethodRequest
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loading import pick_device
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard.predict import predict

METHOD = MethodRequest(name="saliency")
# Asking takes time of the cores that compute.
POLL_SECONDS = 0.01
NOOP = "benchmarks.noop"
ROOT = Path(__file__).parents[1]


def measure(*, quick: bool) -> dict[str, Any]:
    """Medians and the 95th percentile, in milliseconds; what is compared takes turns."""
    rounds = 20 if quick else 60
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = jpegs(folder, rounds + 1)
        running = stack.enter_context(service(folder / "service"))
        images = running.uploaded(files)
        noop = stack.enter_context(_bare_celery(running.stack.environment["HEATMILL_REDIS_URL"], folder))
        compute = _computing(files[0])
        running.seconds_to_last_commit(BUNDLED_MODEL, METHOD, images[:1])
        taken = [(_timed(noop), _timed(compute), *_to_result_and_end(running, image)) for image in images[1:]]
    bare, computed, result, end = (list(each) for each in zip(*taken, strict=True))
    overhead = [there - least for there, least in zip(result, computed, strict=True)]
    return {
        "method": METHOD.name,
        "rounds": rounds,
        "post_to_result_ms": median(result),
        "post_to_result_p95_ms": quantiles(result, n=20)[-1],
        "post_to_end_ms": median(end),
        "compute_ms": median(computed),
        "celery_noop_ms": median(bare),
        "overhead_ms": median(overhead),
    }


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def _to_result_and_end(running: Service, image: str) -> tuple[float, float]:
    started = time.perf_counter()
    job = running.submit(BUNDLED_MODEL, METHOD, [image])
    while running.client.job(job.id).counts.done == 0:
        time.sleep(POLL_SECONDS)
    list(running.client.results(job.id))
    there = 1000 * (time.perf_counter() - started)
    running.client.wait(job.id)
    return there, 1000 * (time.perf_counter() - started)


def _computing(file: Path) -> Callable[[], object]:
    """What a worker computes for one image, in memory: its classes, then the method."""
    model = ModelStore((each.spec for each in load_catalogue().models), pick_device()).get(BUNDLED_MODEL)
    image = photo(file, model)[None]

    def run() -> object:
        targets = predict(model, image).argmax(1)
        return explain(METHOD.name, model, image, targets, METHOD.params)

    run()
    return run


@contextmanager
def _bare_celery(redis_url: str, folder: Path) -> Iterator[Callable[[], object]]:
    """A worker with Celery's defaults, one process, and results in the same Redis."""
    # Another database of the same Redis: the service must not see it.
    app = noop_app(redis_url.rpartition("/")[0] + "/1")
    (folder / "noop.py").write_text(
        f"from benchmarks.latency import noop_app\napp = noop_app({app.conf.broker_url!r})\n"
    )
    celery = [sys.executable, "-m", "celery", "-A", "noop", "--workdir", str(folder)]
    command = [*celery, "worker", "--concurrency", "1", "--loglevel", "ERROR"]
    with (folder / "noop.log").open("w") as log:
        worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            task = app.tasks[NOOP]
            task.delay().get(timeout=60)
            yield lambda: task.delay().get(timeout=60)
        finally:
            worker.terminate()
            worker.wait()


def noop_app(url: str) -> Celery:
    """A task that does nothing."""
    app = Celery("noop", broker=url, backend=url)
    app.task(name=NOOP)(_nothing)
    return app


def _nothing() -> None:
    pass
