"""Redis keeps nothing that has no end: each key has a time to live, or an owner who takes it away."""

import re
from collections import Counter

from heatmill.coordination.job_store import Claim, RedisJobStore
from heatmill.coordination.owned_keys import OWNED_KEYS, owner_of
from heatmill.coordination.task_queue import FINISH, SWEEP
from heatmill.jobs import index as job_index
from heatmill.jobs import records
from heatmill.jobs.registration import register
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.control.plan import Planner
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import ControlContext, feed, sweep
from tests.workers.controlled import ITEMS, commit
from tests.workers.jobs import accept, rung, sent


def test_after_a_soak_each_key_has_an_end_or_an_owner_and_more_soaks_leave_no_more(control: ControlContext) -> None:
    seen, left = Counter[str](), []
    for wiped in (False, False, True):
        jobs = submitted(control)
        seen.update(kinds(control.state))
        assert unowned(control.state) == []
        if wiped:
            control.state.client.flushall()
        worked_off(control, jobs)
        seen.update(kinds(control.state))
        assert unowned(control.state) == []
        assert of_jobs(control.state) == [], "their jobs are over"
        left.append(Counter(plain(name) for name in endless(control.state)))
    assert left[0] == left[1]
    assert {"open job", "ready jobs", "service", "tenant", "queue"} <= seen.keys(), "the soak makes keys of all kinds"


def test_each_owner_is_found_by_its_key() -> None:
    for name in ("heatmill:{a/b}:job", "heatmill:ready:3:a", "heatmill:{a}:jobs:floor", "control:3", "unacked"):
        assert owner_of(name) is not None
    for name in ("heatmill:{a/b}:unheard-of", "heatmill:new", "celery", "heatmill:{a}:jobs:complete"):
        assert owner_of(name) is None
    assert all(owned.bound for owned in OWNED_KEYS)


def submitted(control: ControlContext) -> list[JobId]:
    """Jobs of three tenants in all states: planned, unplanned, at work, cancelled."""
    jobs = [accept(control.storage, f"tenant{number % 3}", items=ITEMS) for number in range(5)]
    for job in jobs:
        register(control.storage, control.state, job)
    control.state.schedule.note_worker("worker", 60)
    feed(control)
    planner = Planner(control)
    for _ in range(3):
        planner.turn()
    feed(control)
    control.dispatcher.feed()
    for job in jobs[::4]:
        if isinstance(control.state.claim(job, 0, "worker", 60), Claim):
            control.state.mark_in_progress(job, 0, 1)
            control.state.suspects(job, 0)
    control.storage.write_once(keys.cancelled(jobs[0]), b"{}")
    control.state.cancel(jobs[0])
    return jobs


def worked_off(control: ControlContext, jobs: list[JobId]) -> None:
    """To the end of all jobs; some are deleted then."""
    planner = Planner(control)
    control.state.release(jobs[0], 0, "worker", 0)
    while not all(control.storage.exists(keys.final(job)) for job in jobs):
        repair(control)
        while planner.turn() is not None:
            pass
        for name, shard in sent(control.state):
            commit(control, JobId.parse(name), shard)
        at_work_since_before(control, jobs[4::4])
        feed(control)
        for job in rung(control.state, FINISH):
            finish(control, job)
    for job in jobs[:3]:
        accepted = records.load_request(control.storage, job)
        records.mark_deleted(control.storage, job)
        job_index.remove(control.state, accepted)
        control.dispatcher.sweep(job)
        sweep(control, job)
    rung(control.state, SWEEP)


def at_work_since_before(control: ControlContext, jobs: list[JobId]) -> None:
    """Commit what workers have claimed without being asked."""
    for job in jobs:
        if control.storage.exists(keys.shard(job, 0)):
            commit(control, job, 0)


def unowned(state: RedisJobStore) -> list[str]:
    """Keys that nobody would ever take away."""
    open_jobs = set(map(str, state.open_jobs()))
    return [name for name in endless(state) if (found := owner_of(name)) is None or not lives(found[1], open_jobs)]


def lives(found: re.Match[str], open_jobs: set[str]) -> bool:
    """Whether the owner is still there."""
    job = found.groupdict().get("job")
    return job is None or job in open_jobs


def of_jobs(state: RedisJobStore) -> list[str]:
    """Keys that only open jobs should have."""
    owners = ((name, owner_of(name)) for name in endless(state))
    return [name for name, found in owners if found is not None and found[0].owner in ("open job", "ready jobs")]


def kinds(state: RedisJobStore) -> Counter[str]:
    return Counter(found[0].owner for name in endless(state) if (found := owner_of(name)) is not None)


def endless(state: RedisJobStore) -> list[str]:
    """Keys without a time to live."""
    return [str(name) for name in state.client.scan_iter() if state.client.ttl(name) == -1]


def plain(name: object) -> str:
    """A key without what differs from job to job."""
    return re.sub("[0-9a-f]{32}", "*", str(name))
