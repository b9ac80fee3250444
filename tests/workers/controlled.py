"""A control worker without explain workers: what these would do at the end of a shard is done by hand."""

from heatmill.coordination.task_queue import FINISH
from heatmill.jobs import records
from heatmill.jobs.parts import parts_of
from heatmill.schemas import Row, Target
from heatmill.storage import keys
from heatmill.storage.keys import JobId, ShardId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.schedule import ControlContext, feed
from tests.workers.jobs import rung

ITEMS = [{"image": f"upload://{number:064x}"} for number in range(7)]


def commit(control: ControlContext, job: JobId, number: int) -> None:
    """Do what a worker does to a shard, with one row per item."""
    items = records.load_shard(control.storage, job, number)
    target = Target(index=1, label="goldfish", probability=0.5)
    for part in parts_of(len(items)):
        rows = [
            Row(item=item.id, index=item.index, method="saliency", rank=0, status="succeeded", target=target)
            for item in items[part.positions.start : part.positions.stop]
        ]
        header, body = records.commit_record(ShardId(job, number), rows, 1.0, "test", part)
        control.storage.write_once(keys.commit(job, number, part.number), body)
        control.state.commit(job, header)


def settle(control: ControlContext) -> None:
    """Feed, then do what the control worker would: finish the jobs that it was rung for."""
    feed(control)
    for job in rung(control.state, FINISH):
        finish(control, job)
