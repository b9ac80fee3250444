"""What the control functions work with."""

from dataclasses import dataclass

from heatmill.catalogue.catalogue import Catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import Dispatcher
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage


@dataclass(frozen=True)
class ControlContext:
    """The collaborators of a control worker."""

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    catalogue: Catalogue
    settings: Settings
