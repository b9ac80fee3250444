"""How boto3 speaks to the object store: time limits, retries, credentials, and what stores other than AWS need."""

from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config

from heatmill.settings import Settings
from heatmill.storage.checksums import content_md5

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


DEFAULT_REGION = "us-east-1"


class Credentials(NamedTuple):
    """Of an account of the store."""

    access_key: str
    secret_key: str
    token: str | None


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
        # Of AWS not "auto", which signs URLs of the global endpoint; newer regions refuse those.
        s3={"addressing_style": "path" if endpoint else "virtual"},
    )
    # A session of its own: boto3's default one may not be shared by threads, and keeps the first credentials it finds.
    session = boto3.session.Session()
    region = settings.s3_region or session.region_name or DEFAULT_REGION
    client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    return client


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    """MinIO asks for it; boto3 sends another checksum since 1.36. Stores that need neither ignore it."""
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def credentials_of(client: "S3Client") -> Credentials | None:
    """What a client signs with now, if anything; it may be replaced."""
    # botocore offers no other way to the credentials that it has found.
    found = client._request_signer._credentials  # type: ignore[attr-defined]  # noqa: SLF001
    return Credentials(*found.get_frozen_credentials()[:3]) if found else None
