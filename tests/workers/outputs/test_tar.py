"""One tar per part of a shard: what lies in it is what single objects hold, at the ranges that the rows name."""

import io
import json
import re
import tarfile
import tracemalloc
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from heatmill.jobs import records
from heatmill.jobs.parts import Part, parts_of
from heatmill.jobs.registration import register
from heatmill.schemas import Row, StoredArray, StoredPicture, Target
from heatmill.schemas.byte_range import span
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.outputs.layout import Files, ShardOutputs, read_files
from heatmill_workers.outputs.tar import SPOOL_BYTES, ShardTars
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.photos import noise
from tests.workers.processed import control_of, objects, origins, planned, rows_of, submitted

# Of six items in shards of four: each item is a part.
PARTS = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
METHODS = [{"name": "saliency"}, {"name": "attention"}]
IMAGES = {f"photos/image {seed}.png": noise(seed) for seed in range(5)} | {"bad": b"not an image"}
ASKED: dict[str, Any] = {"methods": METHODS, "top_k": 2, "shard_items": 4, "layout": "webdataset"}


def tar_of(worker: WorkerContext, job: JobId, shard: int = 0, part: int = 0) -> bytes:
    return worker.storage.get(keys.shard_tar(job, shard, part))


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: content.read() for member in tar if (content := tar.extractfile(member))}


def samples(data: bytes) -> Iterator[dict[str, Any]]:
    """As webdataset groups them: `base_plus_ext` and `group_by_keys` of webdataset.tariterators, and its decoders."""
    sample: dict[str, Any] = {}
    for name, content in members(data).items():
        match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
        assert match
        key, extension = match[1], match[2].lower()
        if sample and sample["__key__"] != key:
            yield sample
            sample = {}
        assert extension not in sample, "a second file of this name in one sample"
        sample["__key__"] = key
        sample[extension] = json.loads(content) if extension.rsplit(".", 1)[-1] == "json" else content
    yield sample


def test_ranges_members_and_single_objects_hold_the_same_bytes(worker: WorkerContext, tenant: str) -> None:
    apart = submitted(worker, tenant, IMAGES, **{**ASKED, "layout": "objects"})
    packed = submitted(worker, tenant, IMAGES, **ASKED, cache=False)

    singles, rows = rows_of(worker, apart), rows_of(worker, packed)

    assert [row.status for row in rows] == ["succeeded"] * 20 + ["failed"] * 4
    assert [(row.item, row.method, row.rank) for row in rows] == [(row.item, row.method, row.rank) for row in singles]
    for single, row in zip(singles[:20], rows[:20], strict=True):
        assert objects(worker, row) == objects(worker, single)
        assert row.target
        assert row.heatmap
        assert row.attribution
        inside = members(tar_of(worker, packed, row.index // 4, row.index % 4))
        name = f"{row.index % 4:04}.{row.method}.{row.target.index}"
        assert objects(worker, row) == (inside[f"{name}.png"], inside[f"{name}.npy"])
        assert row.heatmap.key == row.attribution.key == keys.shard_tar(packed, row.index // 4, row.index % 4)
    stored = [entry.key.removeprefix(packed.prefix) for entry in worker.storage.list(packed.prefix)]
    assert not [key for key in stored if key.startswith(("heatmaps/", "attributions/"))]
    assert [key for key in stored if key.startswith("shards.out/")] == [
        f"shards.out/{shard:06}.{part}.tar" for shard, part in PARTS
    ]


def test_webdataset_reads_a_sample_for_each_item(worker: WorkerContext, tenant: str) -> None:
    job = submitted(worker, tenant, IMAGES, **ASKED)

    found = [sample for name in PARTS for sample in samples(tar_of(worker, job, *name))]

    assert [sample["__key__"] for sample in found] == ["0000", "0001", "0002", "0003", "0000", "0001"]
    assert [sample["json"]["item"] for sample in found] == list(IMAGES)
    for number, sample in enumerate(found):
        rows = [Row.model_validate(row) for row in sample["json"]["results"]]
        assert rows == rows_of(worker, job)[4 * number : 4 * number + 4]
        files = {f"{row.method}.{row.target.index}" for row in rows if row.target and row.heatmap}
        pictures = {f"{name}.{end}" for name in files for end in ("png", "npy")}
        assert sample.keys() == {"__key__", "json"} | pictures | ({"preview.jpg"} if files else set())


def test_a_shard_that_is_done_twice_is_the_same_tar(worker: WorkerContext, tenant: str) -> None:
    job = planned(worker, tenant, IMAGES, **ASKED, cache=False)
    tars = []
    for _ in range(2):
        process_shard(worker, job, 0)
        tars.append(tar_of(worker, job))
        worker.storage.delete([keys.shard_tar(job, 0, 0), keys.commit(job, 0, 0)])
        forget(worker, job)

    assert tars[0] == tars[1]
    with tarfile.open(fileobj=io.BytesIO(tars[0])) as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in tar} == {
            (0, 0, 0, "", "")
        }


def test_a_tar_that_another_worker_left_before_its_record_stands(worker: WorkerContext, tenant: str) -> None:
    job = planned(worker, tenant, IMAGES, **ASKED, cache=False)
    process_shard(worker, job, 0)
    part, name = parts_of(4)[2], (job, 0, 2)
    made = list(records.load_commit(worker.storage, *name)[1])
    # As from another device: every picture a little longer, so that no range is what this worker would say.
    with ShardTars(worker.storage, ShardOutputs(job, 0, 0, parts_of(4))) as other:
        for row in made:
            files = read_files(worker.storage, row)
            other.store(row, Files(files.png + b"other", files.npy))
        worker.storage.delete([keys.shard_tar(*name), keys.commit(*name)])
        theirs = other.finish(part, other.with_locations(made))
    left = tar_of(worker, *name)
    forget(worker, job)

    process_shard(worker, job, 0)

    assert list(records.load_commit(worker.storage, *name)[1]) == theirs
    assert theirs != made
    assert tar_of(worker, *name) == left
    assert all(objects(worker, row)[0].endswith(b"other") for row in theirs)


def test_a_damaged_tar_that_no_record_names_is_replaced(worker: WorkerContext, tenant: str) -> None:
    job = planned(worker, tenant, IMAGES, layout="webdataset")
    worker.storage.put(keys.shard_tar(job, 0, 1), b"junk" * 1000)

    process_shard(worker, job, 0)

    found = [objects(worker, row) for row in rows_of(worker, job) if row.index == 1 and row.heatmap]
    assert found
    assert {data for both in found for data in both} <= set(members(tar_of(worker, job, 0, 1)).values())


@pytest.mark.parametrize("first", ["objects", "webdataset"])
@pytest.mark.parametrize("second", ["objects", "webdataset"])
def test_results_are_taken_from_a_job_of_any_layout(
    worker: WorkerContext, tenant: str, first: str, second: str
) -> None:
    made = submitted(worker, tenant, dict(list(IMAGES.items())[:5]), **{**ASKED, "layout": first})
    again = dict(list(IMAGES.items())[4::-1])
    taken = submitted(worker, tenant, again, **{**ASKED, "layout": second})

    assert origins(worker, taken) == {made.job}
    of = {(row.item, row.method, row.rank): objects(worker, row) for row in rows_of(worker, made)}
    for row in rows_of(worker, taken):
        assert objects(worker, row) == of[row.item, row.method, row.rank]
        assert row.heatmap
        assert row.heatmap.key.startswith(taken.prefix)
        assert (row.heatmap.range is None) == (second == "objects")


def test_a_shard_without_any_result_has_a_tar_that_says_so(worker: WorkerContext, tenant: str) -> None:
    job = submitted(worker, tenant, {"a": b"no image"}, **ASKED)

    (sample,) = samples(tar_of(worker, job))

    assert sample.keys() == {"__key__", "json"}
    assert [row["status"] for row in sample["json"]["results"]] == ["failed"] * 4


def test_the_table_tells_where_in_the_tar_the_files_are(worker: WorkerContext, tenant: str) -> None:
    job = submitted(worker, tenant, IMAGES, **ASKED)
    finish(control_of(worker), job)

    table = pq.read_table(io.BytesIO(worker.storage.get(keys.table(job, 0)))).to_pylist()

    assert table[-1]["heatmap_offset"] is None
    for line, row in zip(table[:20], rows_of(worker, job)[:20], strict=True):
        data = worker.storage.get(line["heatmap_key"])
        assert data[line["heatmap_offset"] :][: line["heatmap_length"]] == objects(worker, row)[0]
        data = worker.storage.get(line["attribution_key"])
        assert data[line["attribution_offset"] :][: line["attribution_length"]] == objects(worker, row)[1]


def test_what_a_tar_holds_in_memory_has_a_bound(storage: S3Storage) -> None:
    job, size = JobId("memory", uuid4().hex), 2**20
    tracemalloc.start()
    try:
        (part,) = parts = (Part(0, 1, range(128)),)
        with ShardTars(storage, ShardOutputs(job, 0, 0, parts)) as tar:
            for index in range(128):
                row = result(index)
                tar.store(row, Files(bytes(size), bytes([index]) * size))
                located = tar.with_locations([row])
            tar.finish(part, located)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < SPOOL_BYTES + 24 * size
    assert located[0].attribution
    assert located[0].attribution.range
    where = span(located[0].attribution.range)
    assert where.stop - where.start == size
    assert storage.get_part(located[0].attribution.key, located[0].attribution.range) == bytes([127]) * size


def forget(worker: WorkerContext, job: JobId) -> None:
    """Let Redis know of the job what the store says now."""
    worker.state.client.flushall()
    register(worker.storage, worker.state, job)


def result(index: int) -> Row:
    """A row whose files have no place."""
    return Row(
        item=str(index),
        index=index,
        method="saliency",
        rank=0,
        status="succeeded",
        target=Target(index=1, label="cat", probability=0.5),
        heatmap=StoredPicture(key="", scale=1, zero_index=0, box=(0, 0, 1, 1)),
        attribution=StoredArray(key="", shape=(1,), factor=1),
    )
