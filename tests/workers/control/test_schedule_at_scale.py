"""What control does does not grow with what it need not look at: counted in calls, not in seconds."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident
from typing import Any

import pytest
from redis.connection import Connection

from heatmill.catalogue.catalogue import Catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import Dispatcher
from heatmill.jobs import records
from heatmill.jobs.planner import write_plan
from heatmill.jobs.status import load_job
from heatmill.schemas import Item, Row
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId, ShardId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.schedule import ControlContext, feed, plan
from tests.workers.jobs import accept, sent

SHARDS = 100
ITEMS = [{"image": f"upload://{number:064x}"} for number in range(SHARDS)]


@pytest.fixture
def control(settings: Settings, storage: S3Storage, state: RedisJobStore, dispatcher: Dispatcher) -> ControlContext:
    return ControlContext(storage, state, dispatcher, Catalogue((), ()), settings)


def test_a_feed_asks_redis_as_often_for_many_jobs_as_for_one(
    control: ControlContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, here = 0, get_ident()
    send = Connection.send_packed_command

    def counted(connection: Connection, command: Any, **options: Any) -> None:
        nonlocal asked
        # A connection that is new, or was idle, says more than what it is asked.
        said_besides = any(word in b"".join(map(bytes, command)) for word in (b"CLIENT", b"PING", b"SELECT", b"AUTH"))
        # Other threads of this process ask too: the faults' stack lives, and is watched, until all tests are over.
        asked += get_ident() == here and not said_besides
        send(connection, command, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Connection, "send_packed_command", counted)

    def feeding() -> int:
        before = asked
        feed(control)
        return asked - before

    plan(control, accept(control.storage, items=ITEMS, shard_items=1))
    feeding()
    one = feeding()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: plan(control, accept(control.storage, items=ITEMS[:2], shard_items=1)), range(30)))
    feeding()

    assert len(control.state.open_jobs()) == 31
    assert feeding() == one


def test_a_finish_reads_each_commit_record_once_and_holds_few(
    control: ControlContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept(control.storage, items=ITEMS, shard_items=1)
    plan(control, job)
    sent(control.state)

    def commit(number: int) -> None:
        row = Row(item=str(number), index=number, method="saliency", rank=0, status="succeeded")
        header, record = records.commit_record(ShardId(job, number), [row], 1.0, "test")
        control.storage.write_once(keys.commit(job, number), record)
        control.state.commit(job, header)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(SHARDS)))
    read: Counter[str] = Counter()
    most = _most_at_once(monkeypatch, read)

    finish(control, job)

    assert {key: times for key, times in read.items() if key.startswith(keys.commits(job))} == {
        keys.commit(job, number): 1 for number in range(SHARDS)
    }
    assert most() < SHARDS / 2, "of a long job the records are not all held at once"
    assert load_job(control.storage, control.state, job).counts.succeeded == SHARDS


def test_a_plan_lists_no_item_before_the_shard_before_it_is_stored(control: ControlContext) -> None:
    accepted = records.load_request(control.storage, accept(control.storage, items=ITEMS, shard_items=10))
    job = JobId(accepted.tenant, accepted.id)

    def list_items(_: Item | None) -> Iterator[Item]:
        for index in range(SHARDS):
            if index and index % 10 == 0:
                assert len(records.load_shard(control.storage, job, index // 10 - 1)) == 10
            yield Item(index=index, id=str(index), image=ITEMS[index]["image"])

    assert write_plan(control.storage, job, accepted, list_items).shards == 10


def _most_at_once(monkeypatch: pytest.MonkeyPatch, read: Counter[str]) -> Callable[[], int]:
    """Count what is read, and how much of it at most was not yet made into rows."""
    counts = Counter[str]()
    load = records.load_commit
    most = 0

    def counted(*arguments: Any) -> Any:
        nonlocal most
        counts["loaded"] += 1
        most = max(most, counts["loaded"] - counts["taken"])
        header, rows = load(*arguments)

        def taken() -> Any:
            counts["taken"] += 1
            yield from rows

        return header, taken()

    get = S3Storage.get

    def reading(storage: S3Storage, key: str, max_bytes: int | None = None) -> bytes:
        read[key] += 1
        return get(storage, key, max_bytes)

    monkeypatch.setattr(records, "load_commit", counted)
    monkeypatch.setattr(S3Storage, "get", reading)
    return lambda: most
