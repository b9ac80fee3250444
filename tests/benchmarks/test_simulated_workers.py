"""A simulated worker leaves behind what a real one does, but for pictures."""

from uuid import uuid4

from benchmarks.simulated_workers import Seen, SimulatedWorker, made_up
from heatmill.catalogue.catalogue import Catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import Dispatcher
from heatmill.jobs import records
from heatmill.jobs.parts import parts_of
from heatmill.jobs.status import load_job
from heatmill.schemas import Item
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.schedule import ControlContext, plan
from tests.workers.jobs import accept, sent


def test_a_made_up_record_reads_as_the_rows_of_its_items(storage: S3Storage) -> None:
    job = JobId("tenant", uuid4().hex)
    items = tuple(Item(index=index, id=f'"{index}" снег', image="s3://b/x.jpg") for index in range(400, 600))
    headers = []
    for part in parts_of(len(items)):
        header, record = made_up(job, 2, items, part)
        storage.write_once(keys.commit(job, 2, part.number), record)
        headers.append(header)
        assert records.load_header(storage, job, 2, part.number) == header
    rows = list(records.load_rows(storage, job, 2))
    assert sum(header.succeeded for header in headers) == len(rows)
    assert [(row.item, row.index) for row in rows] == [(item.id, item.index) for item in items]
    assert all(row.heatmap and row.heatmap.key.startswith(keys.heatmap(job, 2, "")[:-4]) for row in rows)


def test_a_job_that_simulated_workers_did_is_finished_as_any_other(
    settings: Settings, storage: S3Storage, state: RedisJobStore, dispatcher: Dispatcher
) -> None:
    control = ControlContext(storage, state, dispatcher, Catalogue((), ()), settings)
    job = accept(storage, items=[{"image": f"upload://{number:064x}"} for number in range(5)])
    plan(control, job)
    worker = SimulatedWorker(storage, state, dispatcher, 0.0, Seen())
    for _, number in sent(state):
        worker.process(job, number, 0.0)
        worker.process(job, number, 0.0)
    assert [name for _, name in worker.seen.claims] == [f"{job}/{number}" for number in range(3)]
    assert state.client.llen("control") == 1, "commits ring, once at a time"
    finish(control, job)
    assert load_job(storage, state, job).counts.succeeded == 5
