"""What the control functions work with."""

from dataclasses import dataclass

from heatmill.catalogue import Catalogue
from heatmill.dispatch import Dispatcher
from heatmill.settings import Settings
from heatmill.state import RedisJobStore
from heatmill.storage import S3Storage


@dataclass(frozen=True)
class Control:
    """The collaborators of a control worker."""

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    catalogue: Catalogue
    settings: Settings
