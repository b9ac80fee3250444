"""The models of one worker process."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

import torch

from heatmill.errors import ModelRefused, ModelUnavailable
from heatmill.models import ModelSpec
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.models.loading import NO_PROOFS, Proofs, load, pick_device
from heatmill_workers.models.remote import Localise


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
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        # One lock over loading as well: two models that load at once would both count on the same free memory.
        self._lock = threading.Lock()

    def get(self, name: str) -> LoadedModel:
        """The model, ready. Safe in threads; a model that is evicted lives on until its last user lets go.

        Raises:
            ModelUnavailable: This worker does not know it, or cannot load it.
            ModelRefused: No method can be right on it. That is found out once.
            WeightsUnavailable: Its weights cannot be had on this machine now.
            StorageUnavailable: Its weights lie in the object store, which does not answer.
        """
        with self._lock:
            if name in self._refused:
                raise ModelRefused(self._refused[name])
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            self._loaded.move_to_end(name)
            self._evict()
            return self._loaded[name]

    def _load(self, name: str) -> LoadedModel:
        try:
            return load(self._localise(self._spec(name)), self.device, self._proofs)
        except ModelRefused as error:
            # In words: an error has the frames of its traceback, and they have the model.
            self._refused[name] = str(error)
            raise

    def _spec(self, name: str) -> ModelSpec:
        if name not in self._specs:
            raise ModelUnavailable(f"this worker has no model {name!r}; give it the same models.toml as the API")
        return self._specs[name]

    def _evict(self) -> None:
        if self._budget_bytes is None:
            return
        while len(self._loaded) > 1 and sum(model.nbytes for model in self._loaded.values()) > self._budget_bytes:
            self._loaded.popitem(last=False)
