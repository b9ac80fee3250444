"""SeaweedFS, as the S3-compatible object store."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from heatmill.local.ports import LOOPBACK, free_ports, is_free
from heatmill.local.processes import Program
from heatmill.local.servers.programs import object_store_program
from heatmill.storage import keys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
# SeaweedFS' own maintenance looks for its admin server here, whatever it was told.
ADMIN_OFFSET = 10_000
ADMIN_CANDIDATES = 16


@dataclass(frozen=True)
class Credentials:
    """Of the store's only user."""

    access_key: str
    secret_key: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """As SeaweedFS and boto3 read them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


@dataclass(frozen=True)
class ObjectStorePorts:
    """Every port that SeaweedFS opens; each is named, since by itself it takes well-known ones."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int
    admin: int
    admin_grpc: int

    @classmethod
    def choose(cls) -> "ObjectStorePorts":
        """Ports that nobody uses now."""
        admin = next(port for port in free_ports(ADMIN_CANDIDATES) if is_free(port + ADMIN_OFFSET))
        others = cls(*free_ports(10, apart_from={admin}))
        return replace(others, admin=admin, admin_grpc=admin + ADMIN_OFFSET)

    @property
    def are_free(self) -> bool:
        """Whether all of them can still be had."""
        return all(map(is_free, asdict(self).values()))

    @property
    def options(self) -> list[str]:
        """As SeaweedFS reads them."""
        return [
            f"-{part}.port{'.grpc' if grpc else ''}={port}"
            for part, grpc, port in ((*name.partition("_")[::2], port) for name, port in asdict(self).items())
        ]

    def remove_sockets(self) -> None:
        """Tidy up after a store that was killed: some of its sockets are in /tmp wherever its data are."""
        for name, port in asdict(self).items():
            Path(f"/tmp/seaweedfs-{name.replace('_', '-')}-{port}.sock").unlink(missing_ok=True)  # noqa: S108


def object_store(
    folder: Path, ports: ObjectStorePorts, credentials: Credentials, environment: Mapping[str, str]
) -> Program:
    """A server that keeps its data in a folder.

    Raises:
        ProgramMissing: SeaweedFS is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # SeaweedFS writes down the options of its last run, old ports among them, and reads them back.
    (folder / "mini.options").unlink(missing_ok=True)
    command = (
        object_store_program(),
        "-logtostderr=true",  # else it writes into /tmp
        "mini",
        "-dir=.",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        *ports.options,
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        # With it a restart elects a leader at leisure; where that takes longer than 0.2 s, nothing can be read for 5 s.
        "-master.resumeState=false",
        # Every bucket takes several volumes, and disk space / volume size is how many there can be.
        "-master.volumeSizeLimitMB=64",
        "-volume.preStopSeconds=0",
        # Sockets beside the data, by a short relative name, and not in /tmp.
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
    )
    return Program("object-store", command, folder, {**environment, **credentials.environment})


def endpoint(port: int) -> str:
    """How clients reach it."""
    return f"http://{LOOPBACK}:{port}"


class Buckets:
    """Buckets that are made as soon as the store takes them.

    Args:
        url: Of the store.
        credentials: Of its user.
        names: The buckets.
    """

    def __init__(self, url: str, credentials: Credentials, names: Iterable[str]) -> None:
        self._url = url
        self._credentials = credentials
        self._names = tuple(names)

    def answer(self) -> bool:
        """Whether all of them exist and take objects."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            known = {bucket.get("Name") for bucket in self._client.list_buckets()["Buckets"]}
            for name in self._names:
                if name not in known:
                    self._client.create_bucket(Bucket=name)
                # Listening comes before being able to store: the parts of SeaweedFS find each other after that. An
                # empty object would not show it.
                self._client.put_object(Bucket=name, Key=keys.probe("start"), Body=b"x")
                self._client.delete_object(Bucket=name, Key=keys.probe("start"))
        except (BotoCoreError, ClientError):
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @cached_property
    def _client(self) -> "S3Client":
        # Made when it is first used, while the servers start: the import alone takes half as long as they do.
        import boto3
        import botocore.session
        from botocore.config import Config

        # The operator's own AWS profile must not shine through: one that does not exist would end every start.
        bare = botocore.session.Session(
            session_vars={
                "profile": (None, None, None, None),
                "config_file": (None, None, os.devnull, None),
                "credentials_file": (None, None, os.devnull, None),
            }
        )
        known = self._credentials
        session = boto3.session.Session(known.access_key, known.secret_key, region_name=REGION, botocore_session=bare)
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=1,
            read_timeout=5,
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},  # a proxy of the caller's environment does not lead to loopback
        )
        return session.client("s3", endpoint_url=self._url, config=config)
