"""The features that a job's map is made of, stored shard by shard."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId


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
