"""How boto3 speaks to the object store: time limits, retries, and what stores other than AWS need."""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from heatmill.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def boto_client(settings: Settings, endpoint: str | None, attempts: int = 5) -> "S3Client":
    """A boto3 client with heatmill's time limits."""
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=64,
        tcp_keepalive=True,
        # Stores that are not AWS have stored boto3's checksum trailers inside objects, or refused them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    # A session of its own: boto3's default one may not be shared by threads, and keeps the first credentials it finds.
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=settings.s3_region, config=config)
