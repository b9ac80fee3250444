"""Weights in a bucket: fetched once, checked, and never kept when they are others."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.errors import ModelUnavailable, StorageUnavailable, WeightsUnavailable
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage, open_storage
from heatmill_workers.models.remote import localiser
from heatmill_workers.models.store import ModelStore
from tests.workers.small import LABELS, architecture

WEIGHTS = safetensors.torch.save(architecture("squeezenet1_1").state_dict())


def spec(bucket: str, key: str = "net.safetensors", content: bytes = WEIGHTS) -> ModelSpec:
    fields = {
        "name": "net",
        "loader": "torchvision",
        "architecture": "squeezenet1_1",
        "weights": f"s3://{bucket}/{key}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": LABELS,
        "preprocessing": Preprocessing(resize=64, crop=64),
    }
    return ModelSpec.model_validate(fields)


def test_a_model_is_loaded_from_the_bucket_and_the_next_time_from_the_disk(
    storage: S3Storage, sources: str, tmp_path: Path
) -> None:
    bucket = storage.of_bucket(sources)
    bucket.put("net.safetensors", WEIGHTS)
    localise = localiser(storage, tmp_path / "weights")

    first = ModelStore([spec(sources)], localise=localise).get("net")
    bucket.delete(["net.safetensors"])
    second = ModelStore([spec(sources)], localise=localise).get("net")

    assert first.digest == second.digest
    assert [file.name for file in (tmp_path / "weights").iterdir()] == [f"{spec(sources).sha256}.safetensors"]


def test_other_bytes_are_refused_and_not_kept(storage: S3Storage, sources: str, tmp_path: Path) -> None:
    storage.of_bucket(sources).put("net.safetensors", b"something else")

    with pytest.raises(ModelUnavailable, match=r"net\.safetensors has sha256 [0-9a-f]{64}; `sha256` in models.toml is"):
        localiser(storage, tmp_path)(spec(sources))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, "no-such-bucket-at-all"])
def test_what_is_not_there_is_the_operators_to_correct(
    storage: S3Storage, sources: str, tmp_path: Path, name: str | None
) -> None:
    with pytest.raises(WeightsUnavailable, match=r"model net: s3://.* cannot be read; correct `weights`"):
        localiser(storage, tmp_path)(spec(name or sources))


def test_a_store_that_does_not_answer_is_asked_again_later(settings: Settings, tmp_path: Path) -> None:
    nobody = open_storage(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))

    with pytest.raises(StorageUnavailable):
        localiser(nobody, tmp_path)(spec("weights"))
