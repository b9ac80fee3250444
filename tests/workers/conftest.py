"""A bucket that jobs may read from, beside heatmill's own."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from heatmill.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def sources(s3_client: "S3Client") -> Iterator[str]:
    """An empty bucket for source images."""
    name = f"sources-{uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    yield name
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def settings(settings: Settings, sources: str) -> Settings:
    """Settings that allow reading from the source bucket, and from one that does not exist."""
    prefixes = (f"s3://{sources}/", "s3://nowhere-at-all/")
    return settings.model_copy(update={"source_prefixes": prefixes})
