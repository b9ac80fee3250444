"""The features that a job's map is made of: caught beside the prediction, stored shard by shard."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatmill.errors import BadAttribution
from heatmill.schemas import Target
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.shard.predict import Prediction, target
from heatmill_workers.shard.prefetch import Prepared


@dataclass(frozen=True)
class Placed:
    """A photo that the job's map will show.

    Args:
        target: The class that the model predicts, whichever is explained; the first value of a regression.
        method: Of the map.
        features: (D,) float32.
        source: What of the model they are.
    """

    photo: Prepared
    target: Target
    method: str
    features: NDArray[np.float32]
    source: str


def place(photo: Prepared, method: str, prediction: Prediction, model: LoadedModel) -> Placed:
    """What one photo adds to the map.

    Args:
        photo: The photo.
        method: Of the map.
        prediction: Of this photo alone, with features.
        model: Any.

    Raises:
        BadAttribution: The features are not finite.
    """
    if prediction.features is None or not prediction.features.isfinite().all():
        raise BadAttribution("the model's features of this image are not finite")
    predicted = target(model, prediction.scores, model.head.ranking(prediction.scores)[0])
    return Placed(photo, predicted, method, prediction.features.numpy(), prediction.source)


def store_features(
    storage: S3Storage, job: JobId, shard: int, part: int, features: Mapping[int, NDArray[np.float32]]
) -> None:
    """Write the features of the items of a part of a shard, by the items' index in the job.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    indices = sorted(features)
    width = len(features[indices[0]])
    table = np.empty(len(indices), [("index", "<i8"), ("features", "<f4", (width,))])
    table["index"] = indices
    table["features"] = [features[index] for index in indices]
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    storage.put(keys.features(job, shard, part), file.getvalue())


def load_features(storage: S3Storage, job: JobId, shard: int) -> dict[int, NDArray[np.float32]]:
    """What `store_features` wrote of all parts of a shard; nothing where no item of it could be read.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    found: dict[int, NDArray[np.float32]] = {}
    # A whole shard's, of an earlier version, is listed last; what stands is the same in both.
    for entry in storage.list(keys.shard_features(job, shard)):
        table = np.load(io.BytesIO(storage.get(entry.key)), allow_pickle=False)
        found.update(zip(table["index"].tolist(), table["features"], strict=True))
    return found
