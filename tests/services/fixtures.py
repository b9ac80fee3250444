"""Fixtures on real servers.

A test that asks for `settings`, `storage`, `state` or `dispatcher` gets an empty Redis and the bucket of its module.
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` are set for the rest of the session, for `open_storage(settings)` and
for child processes.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from celery import Celery
    from mypy_boto3_s3 import S3Client

    from heatmill.coordination.job_store import RedisJobStore
    from heatmill.coordination.task_queue import Dispatcher
    from heatmill.local.servers.seaweedfs import Credentials
    from heatmill.settings import Settings
    from heatmill.storage.bucket import S3Storage
    from tests.faults.s3_proxy import S3Proxy

START_SECONDS = 30


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of the session's own, shared by all tests."""
    from heatmill.local.environment import inherited
    from heatmill.local.ports import free_ports
    from heatmill.local.processes import running
    from heatmill.local.servers.redis import redis_answers, redis_server
    from heatmill.local.servers.redis import redis_url as url_of_redis

    folder = tmp_path_factory.mktemp("redis")
    (port,) = free_ports(1)
    url = url_of_redis(port, "secret")
    with service("redis"):
        program = redis_server(folder, port, "secret", inherited())
    with running(program, folder / "log", lambda: redis_answers(url), START_SECONDS):
        yield url


@pytest.fixture(scope="session")
def credentials() -> Iterator["Credentials"]:
    """Of the object store; in the environment too."""
    from heatmill.local.servers.seaweedfs import Credentials

    known = Credentials("test-access", "test-secret")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.environment.items():
            patch.setenv(name, value)
        yield known


@pytest.fixture(scope="session")
def object_store_url(tmp_path_factory: pytest.TempPathFactory, credentials: "Credentials") -> Iterator[str]:
    """A SeaweedFS of the session's own, shared by all tests."""
    from heatmill.local.environment import inherited
    from heatmill.local.processes import running
    from heatmill.local.servers.seaweedfs import Buckets, ObjectStorePorts, endpoint, object_store

    folder = tmp_path_factory.mktemp("object-store")
    ports = ObjectStorePorts.choose()
    with service("object store"):
        program = object_store(folder / "data", ports, credentials, inherited())
    url = endpoint(ports.s3)
    with (
        closing(Buckets(url, credentials, ["probe"])) as buckets,
        running(program, folder / "log", buckets.answer, START_SECONDS),
    ):
        yield url
    ports.remove_sockets()


@pytest.fixture(scope="session")
def s3_client(object_store_url: str) -> Iterator["S3Client"]:
    """A client with heatmill's own configuration; the credentials come from the environment."""
    from heatmill.settings import Settings
    from heatmill.storage.s3_client import boto_client

    with closing(boto_client(Settings(), object_store_url)) as client:
        yield client


@pytest.fixture(scope="module")
def bucket(s3_client: "S3Client") -> Iterator[str]:
    """A bucket of the test module's own."""
    name = f"test-{uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    yield name
    # SeaweedFS deletes what is inside, and frees the disk's volumes for the next module.
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def settings(redis_url: str, object_store_url: str, bucket: str) -> "Settings":
    """Settings for real services; Redis is empty."""
    import redis

    from heatmill.settings import Settings

    with closing(redis.Redis.from_url(redis_url)) as client:
        client.flushall()
    return Settings(
        redis_url=redis_url,
        s3_endpoint=object_store_url,
        bucket=bucket,
        source_prefixes=(f"s3://{bucket}/",),
        # Until logs are configured they go to standard output, which tests of the command line read.
        access_log=False,
    )


@pytest.fixture
def storage(settings: "Settings", s3_client: "S3Client") -> "S3Storage":
    """The test module's bucket."""
    from heatmill.storage.bucket import S3Storage

    return S3Storage(s3_client, settings.bucket)


@pytest.fixture
def store_proxy(object_store_url: str) -> Iterator["S3Proxy"]:
    """Between a test and the object store; see `proxied`."""
    from heatmill.local.ports import free_ports
    from tests.faults.s3_proxy import S3Proxy

    proxy = S3Proxy(free_ports(1)[0], urlsplit(object_store_url).port or 0)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def proxied(settings: "Settings", store_proxy: "S3Proxy") -> "S3Storage":
    """The test module's bucket, by way of the proxy."""
    from heatmill.local.servers.seaweedfs import endpoint
    from heatmill.storage.bucket import open_storage

    return open_storage(settings.model_copy(update={"s3_endpoint": endpoint(store_proxy.port)}))


@pytest.fixture
def state(settings: "Settings") -> Iterator["RedisJobStore"]:
    """An empty job store."""
    from heatmill.coordination.job_store import open_state

    store = open_state(settings.redis_url)
    with closing(store.client):
        yield store


@pytest.fixture(scope="session")
def sender(redis_url: str) -> Iterator["Celery"]:
    """A Celery app that sends."""
    import kombu.pools

    from heatmill.coordination.task_queue import celery_app
    from heatmill.settings import Settings

    yield celery_app(Settings(redis_url=redis_url), "test")
    # kombu keeps connections for the whole process, by URL: closed once, after the last test.
    kombu.pools.reset()


@pytest.fixture
def dispatcher(state: "RedisJobStore", sender: "Celery") -> "Dispatcher":
    """Sends to queues that nobody reads."""
    from heatmill.coordination.rings import Rings
    from heatmill.coordination.task_queue import Dispatcher

    return Dispatcher(sender, Rings(state.client))


@contextmanager
def service(name: str) -> Iterator[None]:
    """What a test needs: skipped where a laptop lacks it, a failure in CI."""
    from heatmill.local.environment import inherited
    from heatmill.local.errors import ProgramMissing

    try:
        yield
    except ProgramMissing as error:
        if "CI" in inherited():
            raise
        pytest.skip(f"no {name} here: {error}")
