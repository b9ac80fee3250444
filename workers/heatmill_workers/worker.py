"""What a worker process works with."""

import os
import socket
from dataclasses import dataclass

import torch

from heatmill.catalogue import Catalogue, load_catalogue
from heatmill.dispatch import Dispatcher
from heatmill.settings import Settings
from heatmill.state import RedisJobStore, open_state
from heatmill.storage import S3Storage, open_storage
from heatmill_workers.code_version import code_version
from heatmill_workers.models.remote import localiser
from heatmill_workers.models.store import ModelStore


@dataclass(frozen=True)
class Worker:
    """The collaborators of one process.

    Args:
        name: As its commit records have it.
        code: Which code made the results in the cache; see `code_version`.
    """

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    catalogue: Catalogue
    models: ModelStore
    settings: Settings
    name: str
    code: str


def open_worker(settings: Settings, dispatcher: Dispatcher) -> Worker:
    """Connections and an empty model store; models are loaded when a shard asks for them."""
    catalogue = load_catalogue(settings.models_file, settings.methods_file)
    device = torch.device(settings.device) if settings.device else None
    storage = open_storage(settings)
    return Worker(
        storage=storage,
        state=open_state(settings.redis_url),
        dispatcher=dispatcher,
        catalogue=catalogue,
        models=ModelStore(
            (model.spec for model in catalogue.models),
            device,
            settings.model_memory_bytes,
            localiser(storage, settings.weights_dir),
        ),
        settings=settings,
        name=f"{socket.gethostname()}-{os.getpid()}",
        code=code_version(),
    )
