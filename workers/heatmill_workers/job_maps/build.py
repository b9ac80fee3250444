"""A job's map, made once when every shard is committed: features in, points, a table and a picture out.

Making it again writes the same, and map.json, the last to be written, says that it is there. A map that cannot be made
is no fault of the job's results: map.json then says why.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from heatmill.jobs import records
from heatmill.jobs.documents import encode
from heatmill.jobs.planner import MIN_MAP_ITEMS, map_problem
from heatmill.schemas import MapRequest, Plan, Row
from heatmill.schemas.feature_map import Drawn, JobMap, MapPoint, NeighboursKept
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill.storage.read_ahead import read_ahead
from heatmill_workers.job_maps.features import load_features
from heatmill_workers.job_maps.picture import scatter

if TYPE_CHECKING:
    from heatmill_workers.job_maps.tsne import Layout

VERSIONS = ("heatmill", "opentsne", "scikit-learn", "numpy")
# A column of nothing but nulls keeps its type.
COLUMNS = pa.schema(
    [
        ("item", pa.string()),
        ("index", pa.int64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("class_index", pa.int64()),
        ("class_label", pa.string()),
        ("probability", pa.float64()),
        ("value", pa.float64()),
    ]
)

log = structlog.get_logger()


@dataclass(frozen=True)
class MapJob:
    """A map that is to be made.

    Args:
        check: Asked now and then whether to go on; raises where not.
    """

    storage: S3Storage
    job: JobId
    plan: Plan
    check: Callable[[], None]


@dataclass(frozen=True)
class _Gathered:
    """The rows of the items on the map, and their features (N, D)."""

    rows: list[Row]
    features: NDArray[np.float32]


def make_map(work: MapJob) -> None:
    """Write the map, or why there is none, unless it is written.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    asked = work.plan.map
    if asked is None or work.storage.exists(keys.job_map(work.job, "json")):
        return
    found = _gather(work, asked)
    if len(found.rows) < MIN_MAP_ITEMS:
        record_failure(
            work, f"a map takes at least {MIN_MAP_ITEMS} items; {len(found.rows)} of {work.plan.items} succeeded"
        )
        return
    # Slow to import, and most workers never make a map.
    from heatmill_workers.job_maps.tsne import Tsne

    try:
        layout = Tsne(asked.perplexity, asked.seed).embed(found.features, work.check)
    except (ValueError, np.linalg.LinAlgError) as error:
        record_failure(work, f"the layout failed: {error}")
        return
    _write(work, asked, found, layout)


def record_failure(work: MapJob, reason: str) -> None:
    """Write down that there will be no map.

    Raises:
        StorageUnavailable: The store does not answer.
    """
    if work.plan.map is not None and not work.storage.exists(keys.job_map(work.job, "json")):
        log.warning("no map", reason=reason)
        error = map_problem(reason)
        _store(work, JobMap(method=work.plan.map.method, items=0, left_out=work.plan.items, error=error))


def _gather(work: MapJob, asked: MapRequest) -> _Gathered:
    """All items with a row that succeeded, in the order of the job."""
    rows: list[Row] = []
    parts: list[NDArray[np.float32]] = []

    def read(number: int) -> tuple[dict[int, NDArray[np.float32]], list[Row]]:
        return load_features(work.storage, work.job, number), list(_map_rows(work, asked, number))

    for features, found in read_ahead(read, range(work.plan.shards)):
        work.check()
        shown = [row for row in found if row.index in features]
        rows += shown
        parts += [np.stack([features[row.index] for row in shown])] if shown else []
    return _Gathered(rows, np.concatenate(parts) if parts else np.empty((0, 0), np.float32))


def _map_rows(work: MapJob, asked: MapRequest, number: int) -> Iterator[Row]:
    rows = records.load_rows(work.storage, work.job, number)
    return (row for row in rows if row.method == asked.method and row.status == "succeeded")


def _write(work: MapJob, asked: MapRequest, found: _Gathered, layout: "Layout") -> None:
    points = [_point(row, place) for row, place in zip(found.rows, layout.points.tolist(), strict=True)]
    work.check()
    _put(work, "jsonl", b"".join(point.model_dump_json().encode() + b"\n" for point in points), "application/jsonl")
    _put(work, "parquet", _parquet(points), "application/vnd.apache.parquet")
    title = f"t-SNE of {len(points):,} images, {work.plan.model}, perplexity {layout.perplexity:.3g}"
    _put(work, "png", scatter(layout.points, [point.class_label for point in points], title), "image/png")
    _store(work, _described(work, asked, found, layout))
    log.info("map made", items=len(points), kept=layout.neighbourhoods.kept)


def _described(work: MapJob, asked: MapRequest, found: _Gathered, layout: "Layout") -> JobMap:
    made_by: dict[str, Any] = found.rows[0].provenance
    near = layout.neighbourhoods
    drawn = Drawn(
        perplexity=_rounded(layout.perplexity),
        seed=asked.seed,
        kl_divergence=_rounded(layout.kl_divergence),
        neighbours_kept=NeighboursKept(k=near.k, fraction=_rounded(near.kept), chance=_rounded(near.chance)),
        features=made_by["features"],
        components=layout.components,
        explained_variance=_rounded(layout.explained_variance),
        model=made_by["model"],
        weights_sha256=made_by["weights_sha256"],
        versions={name: version(name) for name in VERSIONS},
    )
    count = len(found.rows)
    return JobMap(method=asked.method, items=count, left_out=work.plan.items - count, drawn=drawn)


def _point(row: Row, place: Iterable[float]) -> MapPoint:
    x, y = (_rounded(value) for value in place)
    if row.target is None:
        raise ValueError(f"item {row.item!r} succeeded without a predicted class")
    target = row.target
    return MapPoint(
        item=row.item,
        index=row.index,
        x=x,
        y=y,
        class_index=target.index,
        class_label=target.label,
        probability=target.probability,
        value=target.value,
    )


def _rounded(value: float) -> float:
    """Six digits: what lies below is how sums happened to be ordered."""
    return float(f"{value:.6g}")


def _parquet(points: Iterable[MapPoint]) -> bytes:
    file = io.BytesIO()
    table = pa.Table.from_pylist([point.model_dump() for point in points], COLUMNS)
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _put(work: MapJob, ending: str, data: bytes, content_type: str) -> None:
    work.storage.put(keys.job_map(work.job, ending), data, content_type)


def _store(work: MapJob, made: JobMap) -> None:
    _put(work, "json", encode(made), "application/json")
