"""A shard's model, or whose fault it is that there is none."""

import structlog

from heatmill.catalogue.catalogue import Model
from heatmill.coordination.doubts import MODEL_SECONDS, doubts_of_model
from heatmill.coordination.live_workers import others_live
from heatmill.errors import (
    InternalError,
    ItemError,
    MachineError,
    ModelNotOnThisWorker,
    ModelRefused,
    TransientError,
    Unconfirmed,
    UnknownModel,
)
from heatmill.jobs.model_records import entry_digest
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.second_opinion import SecondOpinion

log = structlog.get_logger()


def load_model(worker: WorkerContext, name: str) -> LoadedModel:
    """The model, ready.

    Raises:
        ModelRefused: No method can be right on it.
        ItemError: It cannot be built, and a second worker agrees.
        Unconfirmed: It cannot be built here, and no second worker agrees yet.
        MachineError: This machine cannot have it now.
        StorageUnavailable: Its weights lie in the object store, which does not answer.
    """
    model = known_model(worker, name)
    try:
        return worker.models.get(name)
    except (ModelRefused, TransientError, MachineError):
        raise
    except Exception as error:
        raise _confirmed(worker, model, error) from error


def known_model(worker: WorkerContext, name: str) -> Model:
    """What the catalogue has of the model.

    Raises:
        ModelNotOnThisWorker: It has nothing.
    """
    try:
        return worker.catalogue.model(name)
    except UnknownModel as error:
        reason = f"this worker has no model {name!r}; give it the same models.toml as the API"
        raise ModelNotOnThisWorker(reason, lacks=name) from error


def _confirmed(worker: WorkerContext, model: Model, error: Exception) -> ItemError | Unconfirmed | MachineError:
    """What each item fails with, if a second worker agrees. Who waits for that in vain lacks the model."""
    log.error("the model cannot be loaded", model=model.name, exc_info=error)
    entry = f"{model.name}:{entry_digest(model.spec)}"
    patience = worker.settings.shard_limit_seconds
    opinion = SecondOpinion(worker.state, doubts_of_model(entry), worker.witness, patience, MODEL_SECONDS)
    was_mine = opinion.is_mine
    if not opinion.confirms(["model"]):
        if was_mine and others_live(worker.state, worker.witness.worker):
            return MachineError(f"model {model.name} cannot be loaded here: {error}", lacks=model.name)
        return Unconfirmed(f"{str(error) or type(error).__name__}; a second worker is to try it")
    if isinstance(error, ItemError):
        return error
    return InternalError(f"model {model.name} cannot be loaded: {type(error).__name__}; the worker's log has the trace")
