"""From an answer to its row: rendered, encoded and stored. Runs in threads, behind the device."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from heatmill.errors import InternalError, ItemError
from heatmill.jobs.parts import Part
from heatmill.jobs.planner import as_problem
from heatmill.schemas import Row, StoredArray, StoredPicture
from heatmill.storage.bucket import S3Storage
from heatmill_workers.engine.head import Quantity
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.machine_faults import raise_lasting_fault
from heatmill_workers.job_maps.features import store_features
from heatmill_workers.methods.registry import explainer
from heatmill_workers.outputs.heatmap import encode_array, render
from heatmill_workers.outputs.layout import KEY_PENDING, Files, Layout
from heatmill_workers.shard.explain import Answer, Result
from heatmill_workers.shard.feature_vector import FeatureVector

# What the pixels of a heatmap depend on.
LIBRARIES = ("heatmill", "torch", "torchvision", "pillow", "numpy", "scikit-image")

log = structlog.get_logger()


@dataclass(frozen=True)
class ResultWriter:
    """Makes the rows of one shard.

    Args:
        features: Of the items that the job's map will show, by index, until all are there.
    """

    storage: S3Storage
    layout: Layout
    model: LoadedModel
    features: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def row(self, answer: Answer) -> Row:
        """The row that tells of an answer, whose heatmap and attribution the layout has taken before.

        Raises:
            StorageUnavailable: The store does not answer.
            MachineError: The machine fails.
        """
        if isinstance(answer, Result):
            return self._explained_or_failed(answer)
        return self._placed(answer) if isinstance(answer, FeatureVector) else answer

    def store_features(self, part: Part) -> None:
        """Write what was kept of a part for the job's map, if anything.

        Raises:
            StorageUnavailable: The store does not answer.
        """
        outputs = self.layout.outputs
        indices = [outputs.first_index + position for position in part.positions]
        kept = {index: self.features.pop(index) for index in indices if index in self.features}
        if kept:
            store_features(self.storage, outputs.job, outputs.number, part.number, kept)

    def _explained_or_failed(self, outcome: Result) -> Row:
        try:
            return self._explained(outcome)
        except ItemError as error:
            return _failed(outcome, error)
        except Exception as error:
            raise_lasting_fault(error)
            log.exception("not stored", item=outcome.asked.photo.item.id, method=outcome.method.name)
            return _failed(
                outcome,
                InternalError(f"the result cannot be stored: {type(error).__name__}; the worker's log has the trace"),
            )

    def _explained(self, outcome: Result) -> Row:
        asked, method, explained = outcome.asked, outcome.method, outcome.explained
        heatmap, attribution, files = self._encoded(outcome)
        row = Row(
            item=asked.photo.item.id,
            index=asked.photo.item.index,
            method=method.name,
            rank=asked.rank,
            status="succeeded",
            target=asked.target,
            image=asked.photo.read,
            heatmap=heatmap,
            attribution=attribution,
            checks=dict(explained.checks),
            verdict=explained.verdict,
            provenance={**self._provenance, "explained": self._quantity(method.name), "params": method.params},
        )
        return self.layout.store(row, files)

    def _quantity(self, method: str) -> Quantity:
        """What the method's values are shares of."""
        return self.model.head.scores_are if explainer(method).explains_scores else self.model.head.explains

    def _encoded(self, outcome: Result) -> tuple[StoredPicture, StoredArray, Files]:
        asked, explained = outcome.asked, outcome.explained
        picture = render(explained.attribution, explained.picture, self.model.preprocessing.input_size)
        array = encode_array(explained.attribution)
        heatmap = StoredPicture(
            key=KEY_PENDING,
            sha256=_sha256(picture.png),
            scale=picture.scale,
            zero_index=picture.zero_index,
            box=asked.photo.box,
        )
        attribution = StoredArray(
            key=KEY_PENDING, sha256=_sha256(array.npy), shape=explained.attribution.shape, factor=array.factor
        )
        return heatmap, attribution, Files(picture.png, array.npy)

    def _placed(self, placed: FeatureVector) -> Row:
        item = placed.photo.item
        self.features[item.index] = placed.features
        return Row(
            item=item.id,
            index=item.index,
            method=placed.method,
            rank=0,
            status="succeeded",
            target=placed.target,
            image=placed.photo.read,
            provenance={**self._provenance, "features": placed.source},
        )

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "weights_sha256": self.model.digest,
            "proof": self.model.facts.key,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "versions": {name: version(name) for name in LIBRARIES},
        }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _failed(outcome: Result, error: ItemError) -> Row:
    asked = outcome.asked
    return Row(
        item=asked.photo.item.id,
        index=asked.photo.item.index,
        method=outcome.method.name,
        rank=asked.rank,
        status="failed",
        target=asked.target,
        error=as_problem(error),
    )
