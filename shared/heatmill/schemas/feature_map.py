"""What is known of a job's map: map.json, and the points of map.jsonl."""

from typing import Literal

from pydantic import Field

from heatmill.schemas import Problem, Schema

MapFile = Literal["png", "parquet", "jsonl"]


class NeighboursKept(Schema):
    """The map's own measurement: of each point's `k` nearest in feature space, how many are nearest on the map too.

    Args:
        fraction: Over at most 1,000 points; 1 is a perfect map.
        chance: What points in any order would reach.
    """

    k: int
    fraction: float
    chance: float


class Drawn(Schema):
    """How a map was made.

    Args:
        perplexity: The one that was used; at most a third of the other items.
        features: What of the model was laid out.
        components: Main axes of the features that neighbours were found along.
        explained_variance: Fraction of the features' variance along them.
    """

    perplexity: float
    seed: int
    kl_divergence: float
    neighbours_kept: NeighboursKept
    features: str
    components: int
    explained_variance: float
    model: str
    weights_sha256: str
    versions: dict[str, str]


class JobMap(Schema):
    """map.json: written last of the map's files, also where no map can be made.

    Args:
        items: Points of the map.
        left_out: Items that failed and have none.
        urls: Of the map's files, for a while; not stored.
    """

    method: Literal["tsne"]
    items: int
    left_out: int
    drawn: Drawn | None = None
    error: Problem | None = None
    urls: dict[MapFile, str] = Field(default_factory=dict)


class MapPoint(Schema):
    """One line of map.jsonl: an item, where it lies, and the class that the model predicts.

    Args:
        probability: Null where the model is a regression.
        value: The first value of a regression, whose name is the class; else null.
    """

    item: str
    index: int
    x: float
    y: float
    class_index: int
    class_label: str
    probability: float | None = None
    value: float | None = None
