"""What protects a job, taken away piece by piece: each is a fault that heatmill has had, or could have.

`test_taken_away.py` sees that the simulation finds each of them. The first seeds that did, when this was written:

    records_are_written_over        12
    attempts_count_for_machines     26
    claims_do_not_run_out           27
    nothing_is_fed_by_the_timer      0
    complete_jobs_are_told_once      0
    markers_come_last                1
    one_worker_may_judge             0
    nobody_is_told_to_finish         0
    tenants_have_no_turns            0
    counted_before_written           0
    late_shards_are_not_sent_again  11
    nothing_is_rebuilt               1
    rings_have_no_end               11
    commits_are_not_counted          0
    open_markers_stay                0
    any_job_is_complete              0
    trash_is_left                    3
    jobs_have_two_ids                5
"""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from heatmill.coordination import rings, schedule
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.schedule import Filled, Schedule, Window
from heatmill.errors import InternalError, MachineError
from heatmill.jobs import records
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.control import (
    cleanup as sweeping,
)
from heatmill_workers.control import (
    finish as finishing,
)
from heatmill_workers.control import (
    repair as repairing,
)
from heatmill_workers.control import (
    schedule as control,
)
from heatmill_workers.shard import giving_back
from heatmill_workers.shard import process as pipeline
from heatmill_workers.shard.commit import ShardCommits
from heatmill_workers.shard.run import explain_parts

Take = Callable[[pytest.MonkeyPatch], None]


def records_are_written_over(patch: pytest.MonkeyPatch) -> None:
    """A commit record replaces another worker's, who was taken for dead."""
    patch.setattr(S3Storage, "write_once", S3Storage.put)


def counted_before_written(patch: pytest.MonkeyPatch) -> None:
    """Redis is told of a commit before its record is stored."""
    write = ShardCommits._write

    def early(self: Any, part: Any, rows: list[Any], seconds: float) -> Any:
        header, _ = records.commit_record(self._shard.number, rows, seconds, "early", part)
        self._worker.state.commit(self._shard.job, header)
        return write(self, part, rows, seconds)

    patch.setattr(ShardCommits, "_write", early)


def attempts_count_for_machines(patch: pytest.MonkeyPatch) -> None:
    """A shard that is given back for a machine's fault has had an attempt."""
    give_back = giving_back.give_back
    patch.setattr(giving_back, "give_back", lambda *a, counts=True: give_back(*a, counts=True))
    patch.setattr(pipeline, "give_back", lambda *a, counts=True: give_back(*a, counts=True))


def late_shards_are_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    """What was sent once is never late."""
    fill, take = Schedule.fill, Schedule.take
    patch.setattr(Schedule, "fill", lambda self, window, _, *more: fill(self, window, 1e6, *more))
    patch.setattr(Schedule, "take", lambda self, job, _: take(self, job, 1e6))


def claims_do_not_run_out(patch: pytest.MonkeyPatch) -> None:
    """A worker that died keeps its shard."""
    claim = RedisJobStore.claim
    patch.setattr(RedisJobStore, "claim", lambda self, job, shard, token, _: claim(self, job, shard, token, 1e6))


def nothing_is_rebuilt(patch: pytest.MonkeyPatch) -> None:
    """What Redis has forgotten stays forgotten."""
    patch.setattr(repairing, "_repair_job", lambda *_: None)


def nothing_is_fed_by_the_timer(patch: pytest.MonkeyPatch) -> None:
    """Only messages ring feed."""
    patch.setattr(repairing, "feed", lambda _: None)


def rings_have_no_end(patch: pytest.MonkeyPatch) -> None:
    """A message of the control queue that is lost is taken to be under way."""
    patch.setattr(rings, "SECONDS", 1e6)


def complete_jobs_are_told_once(patch: pytest.MonkeyPatch) -> None:
    """A finish message that is lost does not come again."""
    patch.setattr(schedule, "COMPLETE_AGAIN_MS", 10**9)


def commits_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Redis is never told of a commit."""
    patch.setattr(RedisJobStore, "commit", lambda *_: None)


def markers_come_last(patch: pytest.MonkeyPatch) -> None:
    """A job is durable before anybody could find it."""
    put = S3Storage.put

    def without_markers(self: S3Storage, key: str, body: Any, content_type: str = "") -> None:
        if not key.startswith("open/"):
            put(self, key, body, content_type)

    patch.setattr(S3Storage, "put", without_markers)


def open_markers_stay(patch: pytest.MonkeyPatch) -> None:
    """A job that is final keeps its marker, and nobody takes it off."""
    delete = S3Storage.delete
    patch.setattr(S3Storage, "delete", lambda self, keys: delete(self, [k for k in keys if not k.startswith("open/")]))


def one_worker_may_judge(patch: pytest.MonkeyPatch) -> None:
    """A machine's fault is the error of its items."""
    explain = explain_parts

    def failing(*arguments: Any) -> None:
        try:
            explain(*arguments)
        except MachineError as error:
            raise InternalError(str(error)) from error

    patch.setattr(pipeline, "explain_parts", failing)


def any_job_is_complete(patch: pytest.MonkeyPatch) -> None:
    """A finish is believed, whatever Redis and the store say."""
    patch.setattr(finishing, "is_complete", lambda _: True)
    patch.setattr(records, "load_plan", lambda *_: None)


def nobody_is_told_to_finish(patch: pytest.MonkeyPatch) -> None:
    """Feed does not see which jobs are complete."""
    fill = Schedule.fill
    patch.setattr(Schedule, "fill", lambda self, *arguments: Filled(fill(self, *arguments).shards, ()))


def trash_is_left(patch: pytest.MonkeyPatch) -> None:
    """A deleted job whose first message is lost is never swept."""
    patch.setattr(sweeping, "ring_for_trash", lambda *_: None)


def tenants_have_no_turns(patch: pytest.MonkeyPatch) -> None:
    """The window is as large as what waits."""
    window = Window
    patch.setattr(control, "Window", lambda _, lists, seconds: window(1000, lists, seconds))


def jobs_have_two_ids(patch: pytest.MonkeyPatch) -> None:
    """An Idempotency-Key is not what a job's id is made of."""
    from heatmill_api.jobs import submit as submitting

    patch.setattr(submitting, "job_for", lambda tenant, _: JobId(tenant, uuid4().hex))


TAKEN_AWAY: tuple[Take, ...] = (
    records_are_written_over,
    counted_before_written,
    attempts_count_for_machines,
    late_shards_are_not_sent_again,
    claims_do_not_run_out,
    nothing_is_rebuilt,
    nothing_is_fed_by_the_timer,
    rings_have_no_end,
    complete_jobs_are_told_once,
    commits_are_not_counted,
    markers_come_last,
    open_markers_stay,
    one_worker_may_judge,
    any_job_is_complete,
    nobody_is_told_to_finish,
    trash_is_left,
    tenants_have_no_turns,
    jobs_have_two_ids,
)
