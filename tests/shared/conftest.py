"""The real API, served over HTTP; what workers would do is done by the tests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import fakeredis
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from werkzeug.serving import WSGIRequestHandler, make_server

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.cli import main
from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.shard_set import CommittedTotals
from heatmill.coordination.task_queue import Dispatcher
from heatmill.jobs import records
from heatmill.jobs.planner import new_plan, store_plan
from heatmill.jobs.status import derive_state, load_job
from heatmill.schemas import Row
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from tests.api.requests import commit, png

Run = Callable[..., Result]

# The suite of the Lua scripts runs against Redis and against fakeredis, on which `tests/simulation` runs them.
SCRIPTED = (
    *("test_state", "test_state_machine", "test_state_map", "test_state_parts", "test_state_wiped"),
    *("test_conditions", "test_schedule", "test_throughput"),
)
# fakeredis has no INFO, from which this one reads how many commands a script has called; that is Redis' own to tell.
NEEDS_REDIS = ("test_a_fill_asks_redis_for_as_much_with_many_jobs_as_with_few",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of the scripts for each server."""
    if "state" in metafunc.fixturenames and metafunc.module.__name__.rsplit(".")[-1] in SCRIPTED:
        servers = ["redis"] if metafunc.function.__name__ in NEEDS_REDIS else ["redis", "fakeredis"]
        metafunc.parametrize("state", servers, indirect=True)


@pytest.fixture
def state(request: pytest.FixtureRequest, settings: Settings) -> Iterator[RedisJobStore]:
    """An empty job store; on fakeredis where a test is of the scripts."""
    on_fake = getattr(request, "param", "redis") == "fakeredis"
    store = (
        RedisJobStore(fakeredis.FakeStrictRedis(decode_responses=True)) if on_fake else open_state(settings.redis_url)
    )
    with closing(store.client):
        yield store


@dataclass(frozen=True)
class Served:
    """A running service."""

    url: str
    storage: S3Storage
    state: RedisJobStore

    def commit(self, job_id: str, *rows: Row, shard: int = 0) -> None:
        """Commit a shard, as a worker does."""
        job = JobId("default", job_id)
        self.state.commit(job, commit(self.storage, job, shard, *rows))

    def finish(self, job_id: str) -> None:
        """End a job, as the control worker does."""
        job = JobId("default", job_id)
        current = load_job(self.storage, self.state, job)
        cancelled = self.storage.exists(keys.cancelled(job))
        left = (current.counts.total or 0) - current.counts.done if cancelled else 0
        counts = current.counts.model_copy(update={"cancelled": left})
        state = derive_state(counts, started=True)
        final = current.model_copy(update={"state": state, "done": True, "progress": 1.0, "counts": counts})
        self.storage.write_once(keys.final(job), final.model_dump_json().encode())
        self.state.forget(job)

    def explain(self, job_id: str, *rows: Row) -> None:
        """All of a job's work, in one shard."""
        job = JobId("default", job_id)
        if records.load_plan(self.storage, job) is None:
            asked = records.load_request(self.storage, job).request
            plan = new_plan(job, asked, shards=1, items=len(rows), results=len(rows))
            self.state.register(job, {}, store_plan(self.storage, job, plan), CommittedTotals())
        self.commit(job_id, *rows)
        self.finish(job_id)


class Quiet(WSGIRequestHandler):
    """Without a line for every request."""

    def log(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(settings: Settings, storage: S3Storage, state: RedisJobStore, dispatcher: Dispatcher) -> Iterator[Served]:
    """The API, for as long as a test."""
    # Trying racing writes takes a while; other tests do.
    storage.__dict__["has_conditional_writes"] = True
    app = create_app(ApiContext(storage, state, dispatcher, load_catalogue(), settings))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", storage, state)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def run(served: Served) -> Run:
    """Runs a command against the service."""

    def invoke(*arguments: object) -> Result:
        return CliRunner(env={"HEATMILL_URL": served.url}).invoke(main, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos, one of them deeper, and of something else."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "deep/c.png"):
        (folder / name).write_bytes(png(Image.new("RGB", (20, 20), "green")) + name.encode())
    (folder / "notes.txt").write_text("not a photo")
    return folder
