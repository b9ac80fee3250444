"""All rows of a job as Parquet, for whoever reads results with a data frame."""

import json
import tempfile
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heatmill.schemas import ImageRead, Row, StoredFile
from heatmill.schemas.byte_range import span
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId

ROWS_PER_TABLE = 100_000
ROWS_PER_GROUP = 10_000

COLUMNS = pa.schema(
    [
        ("item", pa.string()),
        ("index", pa.int64()),
        ("method", pa.string()),
        ("rank", pa.int32()),
        ("status", pa.string()),
        ("target_index", pa.int32()),
        ("target_label", pa.string()),
        ("target_probability", pa.float64()),
        ("target_value", pa.float64()),
        ("image_format", pa.string()),
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("image_reduced_by", pa.int32()),
        ("image_notes", pa.list_(pa.string())),
        ("image_sha256", pa.string()),
        ("heatmap_key", pa.string()),
        ("heatmap_offset", pa.int64()),
        ("heatmap_length", pa.int64()),
        ("attribution_key", pa.string()),
        ("attribution_offset", pa.int64()),
        ("attribution_length", pa.int64()),
        ("attribution_factor", pa.float64()),
        ("preview_key", pa.string()),
        ("preview_offset", pa.int64()),
        ("preview_length", pa.int64()),
        ("verdict", pa.string()),
        ("checks", pa.string()),
        ("provenance", pa.string()),
        ("error_type", pa.string()),
        ("error_detail", pa.string()),
    ]
)


def write_tables(storage: S3Storage, job: JobId, rows: Iterator[Row]) -> None:
    """Write results.parquet, and further parts where there are more than 100,000 rows."""
    for part in count():
        table_rows = islice(rows, ROWS_PER_TABLE)
        first = list(islice(table_rows, ROWS_PER_GROUP))
        if not first and part:
            return
        with tempfile.TemporaryFile() as file:
            with pq.ParquetWriter(file, COLUMNS, compression="zstd") as writer:
                group = first
                while group:
                    writer.write_table(pa.Table.from_pylist([_flat(row) for row in group], schema=COLUMNS))
                    group = list(islice(table_rows, ROWS_PER_GROUP))
            file.seek(0)
            storage.put(keys.table(job, part), file, "application/vnd.apache.parquet")


def _place(name: str, file: StoredFile | None) -> dict[str, str | int | None]:
    """Where a file is; offset and length of one in a tar."""
    part = span(file.range) if file and file.range else None
    return {
        f"{name}_key": file.key if file else None,
        f"{name}_offset": part.start if part else None,
        f"{name}_length": part.stop - part.start if part else None,
    }


def _image(image: ImageRead | None) -> dict[str, Any]:
    """How the image was read."""
    return {
        "image_format": image and image.format,
        "image_width": image and image.size[0],
        "image_height": image and image.size[1],
        "image_reduced_by": image and image.reduced_by,
        "image_notes": image and list(image.notes),
        "image_sha256": image and image.sha256,
    }


def _flat(row: Row) -> dict[str, Any]:
    return {
        "item": row.item,
        "index": row.index,
        "method": row.method,
        "rank": row.rank,
        "status": row.status,
        "target_index": row.target and row.target.index,
        "target_label": row.target and row.target.label,
        "target_probability": row.target and row.target.probability,
        "target_value": row.target and row.target.value,
        **_image(row.image),
        **_place("heatmap", row.heatmap),
        **_place("attribution", row.attribution),
        "attribution_factor": row.attribution and row.attribution.factor,
        **_place("preview", row.preview),
        "verdict": row.verdict,
        "checks": json.dumps(row.checks),
        "provenance": json.dumps(row.provenance),
        "error_type": row.error and row.error.type,
        "error_detail": row.error and row.error.detail,
    }
