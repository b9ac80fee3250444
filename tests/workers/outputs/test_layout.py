"""Where the files of a result go, one object each."""

import time

import pytest

from heatmill.errors import StorageUnavailable
from heatmill.jobs.parts import parts_of
from heatmill.schemas import Row, StoredArray, StoredPicture, Target
from heatmill.storage.bucket import ObjectMissing, S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.outputs.layout import KEY_PENDING, Files, ShardOutputs, SingleObjects

ROW = Row(
    item="a",
    index=0,
    method="saliency",
    rank=0,
    status="succeeded",
    target=Target(index=3, label="cat", probability=0.5),
    heatmap=StoredPicture(key=KEY_PENDING, scale=1.0, zero_index=0, box=(0.0, 0.0, 1.0, 1.0)),
    attribution=StoredArray(key=KEY_PENDING, shape=(1, 1, 1), factor=1.0),
)


@pytest.fixture
def outputs() -> ShardOutputs:
    return ShardOutputs(JobId("default", "0" * 32), 0, 0, parts_of(8))


def test_both_files_are_stored_when_the_row_says_so(storage: S3Storage, outputs: ShardOutputs) -> None:
    with SingleObjects(storage, outputs) as layout:
        row = layout.store(ROW, Files(b"png", b"npy"))
    assert row.heatmap is not None
    assert row.attribution is not None
    assert storage.get(row.heatmap.key) == b"png"
    assert storage.get(row.attribution.key) == b"npy"


def test_a_half_that_fails_fails_the_result(
    storage: S3Storage, outputs: ShardOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for failing in ("png", "npy"):

        def put(key: str, body: bytes, content_type: str, failing: str = failing) -> None:
            if key.endswith(failing):
                raise StorageUnavailable(failing)

        monkeypatch.setattr(storage, "put", put)
        with SingleObjects(storage, outputs) as layout, pytest.raises(StorageUnavailable, match=failing):
            layout.store(ROW, Files(b"png", b"npy"))


def test_nothing_is_written_after_a_copy_has_failed(
    storage: S3Storage, outputs: ShardOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def copy(source: str, key: str) -> None:
        if key.endswith("png"):
            raise ObjectMissing(source)
        time.sleep(0.2)
        copied.append(key)

    monkeypatch.setattr(storage, "copy", copy)
    with SingleObjects(storage, outputs) as layout:
        with pytest.raises(ObjectMissing):
            layout.copy(ROW)
        assert len(copied) == 1
