"""The two Celery apps: `explain` takes shards to the device, `control` plans, feeds, finishes and repairs.

celery -A heatmill_workers.celery_app.apps:explain worker --queues explain --concurrency 1
celery -A heatmill_workers.celery_app.apps:control worker --queues control
"""

from typing import Any

from celery import Celery
from celery.signals import setup_logging

from heatmill.coordination import task_queue as dispatch
from heatmill.jobs.parts import MAX_PARTS
from heatmill.jobs.planner import MAX_SHARD_ITEMS
from heatmill.logs import configure_logs
from heatmill.settings import Settings


def explain_settings(settings: Settings) -> dict[str, Any]:
    """What an explain worker adds: a crash costs one shard's time, never a shard."""
    return {
        # A message is acknowledged when its shard is done, so that a killed worker's message comes back.
        "task_acks_late": True,
        # A child that dies gives its message back at once; our own count of attempts ends a loop of deaths.
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": False,
        # A failed or timed-out shard is sent again by feed, not by the broker, which would do it for ever.
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        # The last resort against a child that does not even notice its own time limit, which each group of images has
        # anew: as long as a part may take of which every image goes alone and takes its whole time.
        "task_time_limit": settings.shard_limit_seconds * MAX_SHARD_ITEMS // MAX_PARTS,
        # One child per device, and a parent that stays free of torch and answers while the child works.
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        # CUDA does not survive a fork.
        "worker_pool_start_method": "spawn",
        # The default of 4 s counts imports too; a replaced child would be killed for ever while it loads torch.
        "worker_proc_alive_timeout": 300,
        # One message at a time, also after a reconnect; what is not taken stays visible in the queue.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_enable_prefetch_count_reduction": False,
        # Stops leaks; each new child loads the model again.
        "worker_max_tasks_per_child": 1000,
        # The result is write-once: a shard in progress is finished, whatever the connection does.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        **_common(),
    }


def control_settings(settings: Settings) -> dict[str, Any]:
    """What a control worker adds: a timer, and threads, since it waits for storage and Redis only."""
    return {
        "task_acks_late": True,
        "worker_pool": "threads",
        # A finish of a large job takes minutes; feed must find a free thread beside several of them.
        "worker_concurrency": 8,
        # What is not begun stays in the queue: a worker that is killed takes no message with it that nobody began.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_enable_prefetch_count_reduction": False,
        **_common(),
    }


def _common() -> dict[str, Any]:
    return {
        # One that outlives a message which cannot be read.
        "broker_transport": "heatmill_workers.celery_app.transport:Transport",
        # The default gives up after 100 tries and exits.
        "broker_connection_max_retries": None,
        # Redis answers READONLY or OOM as an error of the channel.
        "broker_channel_error_retry": True,
        "task_track_started": False,
        "worker_send_task_events": False,
        # Our own structured logs.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _app(settings: Settings, role: str, extra: dict[str, Any]) -> Celery:
    app = dispatch.celery_app(settings, role)
    app.conf.update(extra, include=["heatmill_workers.celery_app.tasks"])
    return app


@setup_logging.connect
def _use_our_logs(**_: object) -> None:
    configure_logs()


SETTINGS = Settings()
explain = _app(SETTINGS, "explain", explain_settings(SETTINGS))
control = _app(SETTINGS, "control", control_settings(SETTINGS))
