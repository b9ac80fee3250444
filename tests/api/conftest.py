"""The API over real services, called through WSGI."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.task_queue import Dispatcher
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that let each tenant read its own folder of one bucket."""
    return settings.model_copy(
        update={"source_prefixes": ("s3://photos/{tenant}", f"s3://{settings.bucket}/"), "max_body_bytes": 200_000}
    )


@pytest.fixture
def services(settings: Settings, storage: S3Storage, state: RedisJobStore, dispatcher: Dispatcher) -> ApiContext:
    # Each test has a new S3Storage, and trying racing writes takes a while; `test_health` and `test_storage` do.
    storage.__dict__["has_conditional_writes"] = True
    return ApiContext(storage, state, dispatcher, load_catalogue(), settings)


@pytest.fixture
def app(services: ApiContext) -> Flask:
    return create_app(services)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
