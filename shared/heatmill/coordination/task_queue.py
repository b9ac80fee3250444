"""Task and queue names, and the sending of messages: Celery is a doorbell, so a message holds ids and nothing else."""

from contextlib import suppress
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from heatmill.coordination.redis_address import read_address
from heatmill.coordination.redis_errors import translated
from heatmill.coordination.rings import Rings
from heatmill.errors import QueueUnavailable
from heatmill.schemas import Priority
from heatmill.settings import Settings
from heatmill.storage.keys import JobId

EXPLAIN_QUEUE = "explain"
CONTROL_QUEUE = "control"

EXPLAIN = "heatmill.explain"
PLAN = "heatmill.plan"
FEED = "heatmill.feed"
FINISH = "heatmill.finish"
SWEEP = "heatmill.sweep"
MEND = "heatmill.mend"

# Holds a message for the moment in which it is proved that one can be sent.
PROBE_LIST = "heatmill:probe"

SEPARATOR = ":"
# A POST must not hang on a broker that is away: the job is durable already and repair sends it later.
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
# On Redis 0 is the highest priority; one list per step and queue.
PRIORITY_STEPS: dict[Priority, int] = {"interactive": 0, "normal": 3, "bulk": 6}
PRIORITIES = {step: priority for priority, step in PRIORITY_STEPS.items()}


def lists(queue: str, *priorities: Priority) -> list[str]:
    """The Redis lists that make up a queue, or those of some priorities alone."""
    steps = [PRIORITY_STEPS[priority] for priority in priorities or PRIORITY_STEPS]
    return [queue if step == 0 else f"{queue}{SEPARATOR}{step}" for step in steps]


class Dispatcher:
    """Rings the doorbell.

    Every method raises `QueueUnavailable` when Redis does not answer.

    Args:
        app: Sends.
        rings: Keeps a second message to the control worker from being sent while the first waits.
    """

    def __init__(self, app: Celery, rings: Rings | None = None) -> None:
        self.app = app
        self._rings = rings

    def explain(self, job: JobId, shard: int, priority: Priority) -> None:
        """Ask an explain worker to process a shard."""
        self._send(EXPLAIN, EXPLAIN_QUEUE, [job.tenant, job.job, shard], priority=PRIORITY_STEPS[priority])

    def plan(self, job: JobId) -> None:
        """Ask a control worker to list a job's source and cut it into shards."""
        self._ring(PLAN, job)

    def feed(self) -> None:
        """Ask a control worker to send what may be sent."""
        self._ring(FEED)

    def finish(self, job: JobId) -> None:
        """Ask a control worker to finish a job that is complete."""
        self._ring(FINISH, job)

    def sweep(self, job: JobId) -> None:
        """Ask a control worker to remove what a deleted job has left."""
        self._ring(SWEEP, job)

    def mend(self, job: JobId) -> None:
        """Ask a control worker to look at the records of a job, one of which is damaged or missing."""
        self._ring(MEND, job)

    def _ring(self, task: str, job: JobId | None = None) -> None:
        if self._rings is not None and not self._rings.is_first(task, job):
            return
        try:
            self._send(task, CONTROL_QUEUE, [] if job is None else [job.tenant, job.job])
        except QueueUnavailable:
            if self._rings is not None:
                with suppress(QueueUnavailable):
                    self._rings.taken(task, job)
            raise

    def probe(self) -> None:
        """Prove that a message can be sent: one goes, by the same way as all, on to a list of its own and off again."""
        with translated(OperationalError), self.app.producer_pool.acquire(block=True) as producer:
            producer.publish("", exchange="", routing_key=PROBE_LIST, retry=True, retry_policy=PUBLISH_RETRY)
            producer.channel.queue_purge(PROBE_LIST)

    def _send(self, task: str, queue: str, arguments: list[str | int], priority: int = 0) -> None:
        with translated(OperationalError):
            self.app.send_task(task, args=arguments, queue=queue, priority=priority, ignore_result=True)


def celery_app(settings: Settings, role: str, patience_seconds: float = 30.0) -> Celery:
    """A Celery app that can send; the workers add what consuming needs.

    Args:
        settings: Have Redis' address.
        role: Its name among Redis' clients.
        patience_seconds: After which Redis does not answer.

    The transport options must be the same in every process: on Redis the shortest visibility timeout of all wins.

    Raises:
        RedisUnsuitable: The settings name no Redis that heatmill can work with.
        ImportError: A library that Celery's transport needs is missing.
    """
    address = read_address(settings.redis_url)
    app = Celery("heatmill", set_as_current=False)
    app.conf.update(
        broker_url=address.url,
        # Without it kombu encrypts and verifies nothing.
        broker_use_ssl=False if address.tls is None else dict(address.tls),
        broker_transport_options=transport_options(settings, role, patience_seconds),
        broker_connection_retry_on_startup=True,
        task_publish_retry_policy=PUBLISH_RETRY,
        # No results: nothing grows in Redis, and nobody reads them. The commit record is the result.
        task_ignore_result=True,
        result_backend=None,
        # JSON only: pickle would let whoever reaches Redis run code.
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        # A typo in a queue's name is an error, not a new queue that nobody reads.
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in (EXPLAIN_QUEUE, CONTROL_QUEUE)],
        task_create_missing_queues=False,
        task_default_queue=CONTROL_QUEUE,
        # Redis' own default is 0, the highest.
        task_default_priority=PRIORITY_STEPS["normal"],
    )
    # Nothing is sent: the transport is imported, so that a library which is missing ends the process, not each POST.
    app.connection_for_write().close()
    return app


def transport_options(settings: Settings, role: str, patience_seconds: float = 30.0) -> dict[str, Any]:
    """Kombu's options for Redis, each with its reason."""
    return {
        # The last backstop, above the hard limit with room for a model load; claims recover in seconds.
        "visibility_timeout": settings.shard_limit_seconds * 2 + 600,
        # Sweep for unacknowledged messages every 30 s instead of every 100 s.
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 3,
        # A worker that dies while it holds the sweep's lock blocks sweeping for this long; the default is 300 s.
        "unacked_mutex_expire": 60,
        "priority_steps": sorted(PRIORITY_STEPS.values()),
        # Readable list names (explain:6), so that other tools can read a queue's length.
        "sep": SEPARATOR,
        "socket_connect_timeout": min(patience_seconds, 5),
        # The default waits for ever on a dead peer. Must be longer than kombu's BRPOP of one second.
        "socket_timeout": patience_seconds,
        "socket_keepalive": True,
        # Bounds the reconnect loop of a producer.
        "max_retries": 2,
        "interval_max": 0.5,
        "client_name": f"heatmill-{role}",
    }
