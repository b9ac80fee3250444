"""What one photo adds to a job's map: features that were caught beside the prediction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatmill.errors import BadAttribution
from heatmill.schemas import Target
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.shard.predict import Prediction, target
from heatmill_workers.shard.prefetch import ReadyItem


@dataclass(frozen=True)
class FeatureVector:
    """A photo that the job's map will show.

    Args:
        target: The class that the model predicts, whichever is explained; the first value of a regression.
        method: Of the map.
        features: (D,) float32.
        source: What of the model they are.
    """

    photo: ReadyItem
    target: Target
    method: str
    features: NDArray[np.float32]
    source: str


def place(photo: ReadyItem, method: str, prediction: Prediction, model: LoadedModel) -> FeatureVector:
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
    return FeatureVector(photo, predicted, method, prediction.features.numpy(), prediction.source)
