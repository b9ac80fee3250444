"""The Celery tasks: shells that hand over ids. Everything else is plain functions that run without Celery."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from socket import gethostname
from typing import TYPE_CHECKING, Any

import structlog
from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutdown, worker_shutting_down

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination import task_queue as dispatch
from heatmill.coordination.job_store import open_state
from heatmill.coordination.rings import Rings
from heatmill.errors import RecordTooNew, TransientError
from heatmill.logs import configure_logs
from heatmill.storage.bucket import open_storage
from heatmill.storage.keys import JobId
from heatmill_workers.celery_app.apps import SETTINGS, control, explain
from heatmill_workers.celery_app.ending import (
    end_unless_it_opens,
    end_worker,
    listen_to_children,
    rest,
    say_that_it_ends,
    say_that_it_lives,
    tell_unfit,
)
from heatmill_workers.celery_app.periodic import every
from heatmill_workers.celery_app.single_flight import SingleFlight
from heatmill_workers.celery_app.starting import start
from heatmill_workers.celery_app.stopping import is_stopping, listen_to_parent, tell_children
from heatmill_workers.celery_app.time_limit import restart_time_limit, time_limited
from heatmill_workers.celery_app.watchdog import end_with_parent, watch
from heatmill_workers.control import schedule as controlling
from heatmill_workers.control.finish import finish
from heatmill_workers.control.mend import mend
from heatmill_workers.control.plan import Planner
from heatmill_workers.control.repair import repair

if TYPE_CHECKING:
    from heatmill_workers.shard.context import WorkerContext
    from heatmill_workers.shard.giving_back import Ending

log = structlog.get_logger()


@explain.task(name=dispatch.EXPLAIN, shared=False)
def explain_shard(tenant: str, job: str, shard: int) -> None:
    """One shard, start to commit."""
    from heatmill_workers.shard.process import process_shard

    if not _names_a_shard(tenant, job, shard):
        log.error("no shard has such a name", tenant=tenant, job=job, shard=shard)
        return
    with structlog.contextvars.bound_contextvars(job=f"{tenant}/{job}", shard=shard):
        try:
            with time_limited(SETTINGS.shard_limit_seconds):
                worker = replace(explain_worker(), place=place(explain_shard.request.hostname))
                ending = process_shard(worker, JobId(tenant, job), shard)
        except MemoryError:
            # Celery's parent process takes a MemoryError as its own and dies; the shard's claim runs out instead.
            log.exception("out of memory")
            return
    _end(ending)


@control.task(name=dispatch.PLAN, shared=False)
def plan_job(tenant: str, job: str) -> None:
    """Plan for a while whoever has the next turn: there are as many messages as jobs to plan, or fewer."""
    _controlled(lambda: plan_turn(JobId(tenant, job)), dispatch.PLAN, JobId(tenant, job))


@control.task(name=dispatch.FINISH, shared=False)
def finish_job(tenant: str, job: str) -> None:
    """Make a complete job terminal."""
    _controlled(lambda: finish(control_services(), JobId(tenant, job)), dispatch.FINISH, JobId(tenant, job))


@control.task(name=dispatch.FEED, shared=False)
def feed_queue() -> None:
    """Send what may be sent."""
    _controlled(feed_once, dispatch.FEED)


@control.task(name=dispatch.SWEEP, shared=False)
def sweep_job(tenant: str, job: str) -> None:
    """Remove what a deleted job has left."""
    _controlled(lambda: controlling.sweep(control_services(), JobId(tenant, job)), dispatch.SWEEP, JobId(tenant, job))


@control.task(name=dispatch.MEND, shared=False)
def mend_job(tenant: str, job: str) -> None:
    """Make damaged records again."""
    _controlled(lambda: mend(control_services(), JobId(tenant, job)), dispatch.MEND, JobId(tenant, job))


def repair_jobs() -> None:
    """The timer: rebuild what Redis has forgotten, then feed."""
    _put_off(lambda: repair(control_services()))


def plan_turn(new: JobId) -> None:
    """One slice of planning; what is left is rung for again, behind what came meanwhile."""
    left = planner().turn(new)
    controlling.feed(control_services())
    if left is not None:
        control_services().dispatcher.plan(left)


@cache
def planner() -> Planner:
    """What this process reads of sources stays open between two slices."""
    return Planner(control_services())


@cache
def control_services() -> controlling.ControlContext:
    """This process' connections, opened on first use."""
    state = open_state(SETTINGS.redis_url)
    return controlling.ControlContext(
        storage=open_storage(SETTINGS),
        state=state,
        dispatcher=dispatch.Dispatcher(control, Rings(state.client)),
        catalogue=load_catalogue(SETTINGS.models_file, SETTINGS.methods_file),
        settings=SETTINGS,
    )


# Every commit rings: were each ring a feed, many workers would keep all threads busy with counting the same.
feed_once = SingleFlight(lambda: controlling.feed(control_services()))


@worker_init.connect
def check_start(sender: Any, **_: object) -> None:
    """In the parent, before it connects to the queue and starts a child."""
    # Celery asks for logs later.
    configure_logs()
    here = place(sender.hostname)
    if sender.app is explain:
        rest(SETTINGS.redis_url, here)
        listen_to_children()
    start(SETTINGS, computes=sender.app is explain, refused=partial(tell_unfit, SETTINGS.redis_url, here))


@worker_ready.connect
def start_threads(sender: Any, **_: object) -> None:
    """What runs beside the tasks, in the process that takes them off the queue: the timer, and a watch over both."""
    queue = dispatch.CONTROL_QUEUE if sender.app is control else dispatch.EXPLAIN_QUEUE
    state = open_state(SETTINGS.redis_url)
    watch(state, queue, SETTINGS.consumer_patience_seconds)
    if sender.app is explain:
        say_that_it_lives(state, place(sender.hostname))
    else:
        every("repair", SETTINGS.timer_seconds, repair_jobs)


@worker_process_init.connect
def warm_up(sender: str, **_: object) -> None:
    """Import torch and open connections before the first shard comes, not while it waits."""
    end_with_parent()
    listen_to_parent()
    end_unless_it_opens(open_state(SETTINGS.redis_url), place(sender), explain_worker)


@worker_shutdown.connect
def say_goodbye(sender: Any, **_: object) -> None:
    """In the parent, whatever it ends for."""
    if sender.app is explain:
        say_that_it_ends(open_state(SETTINGS.redis_url), place(sender.hostname))


@worker_shutting_down.connect
def stop_gently(**_: object) -> None:
    """In the parent: its child finishes the part at work, and gives back the rest of the shard."""
    tell_children()


@cache
def explain_worker() -> "WorkerContext":
    """This child's connections and models; torch is imported here, not in the parent."""
    from heatmill_workers.shard.context import open_worker

    rings = Rings(open_state(SETTINGS.redis_url).client)
    worker = open_worker(SETTINGS, dispatch.Dispatcher(explain, rings))
    restart = partial(restart_time_limit, SETTINGS.shard_limit_seconds)
    return replace(worker, is_stopping=is_stopping, restart_time_limit=restart)


def place(hostname: str) -> str:
    """What a worker is called, the same after it was started again: its machine, and Celery's name of it."""
    return f"{gethostname()}/{hostname}"


def _end(ending: "Ending | None") -> None:
    """End what is to end."""
    from heatmill_workers.shard.giving_back import ProcessEnds, WorkerEnds

    if isinstance(ending, WorkerEnds):
        end_worker(ending.reason)
    elif isinstance(ending, ProcessEnds):
        log.warning("this process ends, for a fresh one to try again", reason=ending.reason)
        # Its parent starts another one.
        raise SystemExit(0)


def _names_a_shard(tenant: object, job: object, shard: object) -> bool:
    """Whether the arguments are of their types: Redis would take "3" for shard 3."""
    return isinstance(tenant, str) and isinstance(job, str) and type(shard) is int and shard >= 0


def _controlled(run: Callable[[], None], task: str, job: JobId | None = None) -> None:
    """Run what a message asks for; the next message of its kind is sent from now on."""

    def answered() -> None:
        Rings(control_services().state.client).taken(task, job)
        run()

    _put_off(answered)


def _put_off(run: Callable[[], None]) -> None:
    try:
        run()
    except (TransientError, RecordTooNew) as error:
        # The timer comes back in seconds.
        log.warning("put off", error=str(error))
    except MemoryError:
        # Celery takes a MemoryError as its own, and the worker would die with all that its other threads do.
        log.exception("out of memory")
