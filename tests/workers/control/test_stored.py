"""What earlier versions stored is read, and what they had begun is finished."""

import pytest

from heatmill.jobs import records
from heatmill.jobs.status import load_job
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import feed
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import sent
from tests.workers.processed import control_of, objects, rows_of
from tests.workers.stored import FOLDER, ITEMS, load

FORMATS = [int(path.name.removeprefix("format-")) for path in sorted(FOLDER.glob("format-*"))]
LAYOUTS = ("objects", "webdataset")


def test_objects_of_todays_format_are_kept() -> None:
    assert FORMATS == [1]


@pytest.mark.parametrize("stored_format", FORMATS)
def test_jobs_that_were_done_are_read_and_those_that_were_half_done_are_finished(
    worker: WorkerContext, stored_format: int
) -> None:
    jobs = load(worker.storage, stored_format)
    control = control_of(worker)
    worker.state.client.flushall()

    repair(control)
    for layout in LAYOUTS:
        assert load_job(worker.storage, worker.state, jobs[f"{layout}-half"]).counts.done == ITEMS
    feed(control)
    for name, shard in sent(worker.state):
        process_shard(worker, JobId.parse(name), shard)
    for layout in LAYOUTS:
        finish(control, jobs[f"{layout}-half"])

    for layout in LAYOUTS:
        done, half = (jobs[f"{layout}-{name}"] for name in ("done", "half"))
        for job in (done, half):
            final = load_job(worker.storage, worker.state, job)
            assert (final.state, final.done) == ("succeeded", True)
            assert not worker.storage.exists(keys.open_marker(job))
        explained = [row for row in rows_of(worker, done) if row.method != "tsne"]
        assert [(row.index, row.method) for row in explained] == [
            (row.index, row.method) for row in rows_of(worker, half)
        ]
        assert all(all(objects(worker, row)) for row in explained + rows_of(worker, half))
        made = records.load_map(worker.storage, done)
        assert made
        assert made.items == ITEMS
