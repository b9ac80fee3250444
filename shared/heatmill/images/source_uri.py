"""Where images may come from: `upload://<sha256>` and `s3://bucket/key` under the prefixes that the operator allows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heatmill.schemas.json_pointer import pointer
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage

UPLOAD = re.compile(r"upload://([0-9a-f]{64})")
S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.*)", re.DOTALL)


class UriRefused(ValueError):
    """This URI is not one that the job's tenant may read."""


@dataclass(frozen=True)
class SourceRules:
    """What one tenant may read.

    Args:
        tenant: Stands for `{tenant}` in the prefixes.
        prefixes: As `s3://bucket/prefix`; a prefix ends at a path boundary.
        own_bucket: Heatmill's own bucket, never read by URI: other tenants' results lie there.
        operators: URIs that the operator has named, read for everyone.
    """

    tenant: str
    prefixes: tuple[str, ...]
    own_bucket: str
    operators: frozenset[str] = frozenset()

    def check(self, uri: str) -> tuple[str, str]:
        """Bucket and key of an `s3://` URI.

        Raises:
            UriRefused: The URI is malformed, or under none of the allowed prefixes.
        """
        match = S3.fullmatch(uri)
        if match is None:
            raise UriRefused(f"{uri[:200]!r} is not read here; give `upload://<sha256>` or `s3://bucket/key`")
        bucket, name = match.groups()
        if uri in self.operators:
            return bucket, name
        if {".", ".."} & set(name.split("/")):
            raise UriRefused(f"{uri[:200]!r} has a `.` or `..` in its path")
        allowed = [prefix.replace("{tenant}", self.tenant).rstrip("/") + "/" for prefix in self.prefixes]
        if bucket == self.own_bucket or not any(uri.startswith(prefix) for prefix in allowed):
            raise UriRefused(f"{uri[:200]!r} is not an allowed source; allowed: {', '.join(allowed) or 'none'}")
        return bucket, name


@dataclass(frozen=True)
class ImageAddress:
    """Where an image's bytes lie; `sha256` is known for uploads."""

    storage: S3Storage
    key: str
    sha256: str | None = None


def uris_in(params: Mapping[str, Any]) -> dict[str, str]:
    """The images that a method's params name by URI, by their JSON pointer."""
    return {
        pointer([name, position]): entry
        for name, value in params.items()
        if isinstance(value, list)
        for position, entry in enumerate(value)
        if isinstance(entry, str) and "://" in entry
    }


def address(uri: str, storage: S3Storage, rules: SourceRules) -> ImageAddress:
    """Where the bytes of an image URI lie.

    Raises:
        UriRefused: The tenant may not read it.
    """
    if match := UPLOAD.fullmatch(uri):
        return ImageAddress(storage, keys.blob(rules.tenant, match[1]), match[1])
    bucket, name = rules.check(uri)
    if not name:
        raise UriRefused(f"{uri[:200]!r} names a bucket, not an image")
    if name.endswith("/"):
        raise UriRefused(f"{uri[:200]!r} names a folder, not an image; a job lists one as its `source`")
    return ImageAddress(storage.of_bucket(bucket), name)
