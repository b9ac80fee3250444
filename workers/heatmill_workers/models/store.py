"""The models of one worker process."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

import torch

from heatmill.catalogue.models import ModelSpec
from heatmill.errors import (
    DeviceUnusable,
    ItemTooLargeForDevice,
    MachineError,
    MemoryExhausted,
    ModelNotOnThisWorker,
    ModelRefused,
    TransientError,
)
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.machine_faults import machine_fault
from heatmill_workers.models.loading import NO_PROOFS, Proofs, load, pick_device
from heatmill_workers.models.remote import Localise

# A model that this machine could not load is not tried again before: its shards come round every few seconds.
AGAIN_SECONDS = 30.0


class ModelStore:
    """Loads a model when it is first asked for, once, and lets the least recently used go over the budget.

    Args:
        specs: Every model that may be asked for.
        device: Picked by itself where None.
        budget_bytes: Memory that loaded models may hold together; one model may exceed it alone. None is no limit.
        localise: Puts the weights of a spec on this machine.
        proofs: Where the facts of models are kept.
    """

    def __init__(
        self,
        specs: Iterable[ModelSpec],
        device: torch.device | None = None,
        budget_bytes: int | None = None,
        localise: Localise = lambda spec: spec,
        proofs: Proofs = NO_PROOFS,
    ) -> None:
        self.device = device or pick_device()
        self._specs = {spec.name: spec for spec in specs}
        self._budget_bytes = budget_bytes
        self._localise = localise
        self._proofs = proofs
        self._refused: dict[str, str] = {}
        self._failed: dict[str, tuple[type[MachineError], str, float]] = {}
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        # One lock over loading as well: two models that load at once would both count on the same free memory.
        self._lock = threading.Lock()

    def get(self, name: str) -> LoadedModel:
        """The model, ready. Safe in threads; a model that is evicted lives on until its last user lets go.

        Raises:
            ModelUnavailable: It cannot be built as models.toml has it.
            ModelRefused: No method can be right on it. That is found out once.
            ModelNotOnThisWorker: This worker does not know it.
            WeightsUnavailable: Its weights cannot be had on this machine now.
            MachineError: The machine's device, disk or memory does not suffice for it now.
            StorageUnavailable: Its weights lie in the object store, which does not answer.
        """
        with self._lock:
            if name in self._refused:
                raise ModelRefused(self._refused[name])
            if name not in self._loaded:
                self._raise_known_failure(name)
                self._loaded[name] = self._load(name)
            self._loaded.move_to_end(name)
            self._evict()
            return self._loaded[name]

    def _load(self, name: str) -> LoadedModel:
        try:
            return load(self._localise(self._spec(name)), self.device, self._proofs)
        except TransientError:
            raise
        except Exception as error:
            if (fault := _fault(name, error)) is not None:
                raise self._failure(name, fault) from error
            if isinstance(error, ModelRefused):
                # In words: an error has the frames of its traceback, and they have the model.
                self._refused[name] = str(error)
            raise

    def _raise_known_failure(self, name: str) -> None:
        kind, reason, again_at = self._failed.get(name, (MachineError, "", 0.0))
        if time.monotonic() < again_at:
            raise kind(reason, lacks=name)

    def _failure(self, name: str, error: MachineError) -> MachineError:
        """The error, which tells of one model only unless it is the device's; remembered for a while."""
        if isinstance(error, DeviceUnusable):
            return error
        # In words, as above.
        self._failed[name] = type(error), str(error), time.monotonic() + AGAIN_SECONDS
        return type(error)(str(error), lacks=name)

    def _spec(self, name: str) -> ModelSpec:
        if name not in self._specs:
            raise ModelNotOnThisWorker(f"this worker has no model {name!r}; give it the same models.toml as the API")
        return self._specs[name]

    def _evict(self) -> None:
        if self._budget_bytes is None:
            return
        while len(self._loaded) > 1 and sum(model.nbytes for model in self._loaded.values()) > self._budget_bytes:
            self._loaded.popitem(last=False)


def _fault(name: str, error: Exception) -> MachineError | None:
    """The machine's fault, where a model's load failed for one; its message names the model."""
    if isinstance(error, ItemTooLargeForDevice):
        return MemoryExhausted(f"model {name}: {error}")
    fault = machine_fault(error)
    return fault if fault is None or fault is error else type(fault)(f"model {name}: {fault}")
