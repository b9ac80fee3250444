"""A worker of this process with the bundled models, and a bucket that jobs may read from beside heatmill's own."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from heatmill.catalogue.catalogue import Catalogue
    from heatmill.coordination.job_store import RedisJobStore
    from heatmill.coordination.task_queue import Dispatcher
    from heatmill.settings import Settings
    from heatmill.storage.bucket import S3Storage
    from heatmill_workers.control.schedule import ControlContext
    from heatmill_workers.models.store import ModelStore
    from heatmill_workers.shard.context import WorkerContext


@pytest.fixture
def sources(s3_client: "S3Client") -> Iterator[str]:
    """An empty bucket for source images."""
    name = f"sources-{uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    yield name
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def settings(settings: "Settings", sources: str) -> "Settings":
    """Settings that allow reading from the source bucket, and from one that does not exist."""
    prefixes = (f"s3://{sources}/", "s3://nowhere-at-all/")
    return settings.model_copy(update={"source_prefixes": prefixes})


@pytest.fixture(scope="module")
def catalogue() -> "Catalogue":
    """The bundled models; a module may have its own."""
    from heatmill.catalogue.catalogue import load_catalogue

    return load_catalogue()


@pytest.fixture(scope="module")
def models(catalogue: "Catalogue") -> "ModelStore":
    """Each is loaded once a module."""
    from heatmill_workers.models.store import ModelStore

    return ModelStore(model.spec for model in catalogue.models)


@pytest.fixture
def worker(
    settings: "Settings",
    storage: "S3Storage",
    state: "RedisJobStore",
    dispatcher: "Dispatcher",
    models: "ModelStore",
    catalogue: "Catalogue",
) -> "WorkerContext":
    """A worker, and no open job of another test."""
    from heatmill.storage import keys
    from heatmill_workers.result_cache.code_version import code_version
    from heatmill_workers.shard.context import WorkerContext

    storage.delete([entry.key for entry in storage.list(keys.OPEN_PREFIX)])
    return WorkerContext(storage, state, dispatcher, catalogue, models, settings, "test", code_version())


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own, whose cache is empty."""
    return f"t{uuid4().hex[:8]}"


@pytest.fixture
def control(
    settings: "Settings", storage: "S3Storage", state: "RedisJobStore", dispatcher: "Dispatcher"
) -> "ControlContext":
    """A control worker with a window of three shards, and no open job of another test."""
    from heatmill.catalogue.catalogue import Catalogue
    from heatmill.storage import keys
    from heatmill_workers.control.schedule import ControlContext

    storage.delete([entry.key for entry in storage.list(keys.OPEN_PREFIX)])
    return ControlContext(
        storage, state, dispatcher, Catalogue((), ()), settings.model_copy(update={"window_shards": 3})
    )
