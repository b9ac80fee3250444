"""What a worker process works with."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import structlog
import torch

from heatmill.catalogue.catalogue import Catalogue, load_catalogue
from heatmill.catalogue.models import ModelSpec
from heatmill.coordination.doubts import Witness
from heatmill.coordination.job_store import RedisJobStore, open_state
from heatmill.coordination.task_queue import Dispatcher
from heatmill.errors import StorageUnavailable
from heatmill.jobs.model_records import load_facts, store_facts
from heatmill.schemas import ModelFacts
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage, open_storage
from heatmill_workers.models.loading import Proofs
from heatmill_workers.models.remote import localiser
from heatmill_workers.models.store import ModelStore
from heatmill_workers.result_cache.code_version import code_version

log = structlog.get_logger()


@dataclass(frozen=True)
class WorkerContext:
    """The collaborators of one process.

    Args:
        name: As its commit records have it.
        code: Which code made the results in the cache; see `code_version`.
        is_stopping: Whether the process is asked to stop.
        restart_time_limit: Called for each group of images, which has `shard_limit_seconds` from then on.
        place: What the worker is called, the same after it was started again; `name` where empty.
        process: Differs from each other process; `name` where empty.
    """

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    catalogue: Catalogue
    models: ModelStore
    settings: Settings
    name: str
    code: str
    is_stopping: Callable[[], bool] = lambda: False
    restart_time_limit: Callable[[], None] = lambda: None
    place: str = ""
    process: str = ""

    @property
    def witness(self) -> Witness:
        """Who this is, in the eyes of other workers."""
        return Witness(self.place or self.name, self.process or self.name)


def open_worker(settings: Settings, dispatcher: Dispatcher) -> WorkerContext:
    """Connections and an empty model store; models are loaded when a shard asks for them."""
    catalogue = load_catalogue(settings.models_file, settings.methods_file)
    device = torch.device(settings.device) if settings.device else None
    storage = open_storage(settings)
    code = code_version()
    return WorkerContext(
        storage=storage,
        state=open_state(settings.redis_url),
        dispatcher=dispatcher,
        catalogue=catalogue,
        models=ModelStore(
            (model.spec for model in catalogue.models),
            device,
            settings.model_memory_bytes,
            localiser(storage, settings.weights_dir),
            proofs_in(storage, code),
        ),
        settings=settings,
        name=f"{socket.gethostname()}-{os.getpid()}",
        code=code,
        process=uuid4().hex,
    )


def proofs_in(storage: S3Storage, code: str) -> Proofs:
    """Facts of models in the store. A store that does not answer costs a proof, and no model."""

    def recall(key: str) -> ModelFacts | None:
        try:
            return load_facts(storage, key)
        except StorageUnavailable as error:
            log.warning("facts of a model not read", key=key, error=str(error))
            return None

    def keep(spec: ModelSpec, facts: ModelFacts) -> None:
        try:
            store_facts(storage, spec, facts)
        except StorageUnavailable as error:
            log.warning("facts of a model not stored", model=spec.name, error=str(error))

    return Proofs(code, recall, keep)
