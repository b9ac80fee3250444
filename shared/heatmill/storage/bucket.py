"""The object store: the truth about every job, behind the few calls heatmill needs."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import IO, TYPE_CHECKING, BinaryIO
from uuid import uuid4

from heatmill.errors import StorageUnavailable
from heatmill.schemas.byte_range import ByteRange, span
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bulk_delete import BulkDelete
from heatmill.storage.checksums import from_start, sha256
from heatmill.storage.errors import (
    AccessRefused,
    BucketMissing,
    ConditionFailed,
    EmptyRange,
    ObjectMissing,
    WriteConflict,
    translated,
)
from heatmill.storage.fast_path import FastObjects
from heatmill.storage.lines import cut_lines
from heatmill.storage.presign import Signer, signer
from heatmill.storage.presigned_upload import PresignedUpload
from heatmill.storage.s3_client import boto_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "AccessRefused",
    "BucketMissing",
    "ListedObject",
    "ObjectMissing",
    "S3Storage",
    "WriteConflict",
    "open_storage",
]

# Enough to find a store that checks and writes in two steps; SeaweedFS lets each loser of a race wait for a second.
PROBE_WRITERS = 3
# That images come from, and whose connections are kept.
BUCKETS = 32


@dataclass(frozen=True)
class ListedObject:
    """One entry of a listing."""

    key: str
    size: int
    modified: datetime


class S3Storage:
    """One bucket of an S3-compatible store.

    Every method raises `StorageUnavailable` when the store does not answer, after botocore's own retries.

    Args:
        client: A boto3 S3 client; thread-safe, one per process.
        bucket: The bucket; must exist.
        public_client: Signs URLs for callers who reach the store under another name.
    """

    def __init__(self, client: "S3Client", bucket: str, public_client: "S3Client | None" = None) -> None:
        self.client = client
        self.bucket = bucket
        self.public_client = public_client or client
        self._quick = FastObjects(client, bucket)
        self._deletes = BulkDelete(client, bucket)
        # Found by the same trial as `has_conditional_writes`: one that is not known to the store is not sent.
        self._knows_conditions = True
        self._buckets = lru_cache(BUCKETS)(lambda bucket: S3Storage(client, bucket, self.public_client))

    def of_bucket(self, bucket: str) -> "S3Storage":
        """The same store, another bucket: where a job's images come from."""
        return self._buckets(bucket)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Read an object, or its first `max_bytes`.

        Raises:
            ObjectMissing: Nothing is stored there.
        """
        if (quick := self._quick.get(key, max_bytes)) is not None:
            return quick
        extra = {} if max_bytes is None else {"Range": f"bytes=0-{max_bytes - 1}"}
        try:
            with translated(key):
                return self.client.get_object(Bucket=self.bucket, Key=key, **extra)["Body"].read()  # type: ignore[arg-type]
        except EmptyRange:
            return b""

    def get_part(self, key: str, asked: ByteRange | None) -> bytes:
        """Read a part of an object in one call; all of it where no part is asked for.

        Raises:
            ObjectMissing: Nothing is stored there.
        """
        if asked is None:
            return self.get(key)
        where = span(asked)
        with translated(key):
            part = self.client.get_object(Bucket=self.bucket, Key=key, Range=asked)["Body"].read()
        if len(part) != where.stop - where.start:
            raise StorageUnavailable(f"the object store gave {len(part)} bytes of {key} for {asked}")
        return part

    def download(self, key: str, file: BinaryIO) -> None:
        """Write a large object into a file, several parts at a time.

        Raises:
            ObjectMissing: Nothing is stored there.
        """
        with translated(key):
            self.client.download_fileobj(self.bucket, key, file)

    def size(self, key: str) -> int:
        """Bytes of an object.

        Raises:
            ObjectMissing: Nothing is stored there.
        """
        if (quick := self._quick.size(key)) is not None:
            return quick
        with translated(key):
            return self.client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]

    def exists(self, key: str) -> bool:
        """Whether something is stored there."""
        try:
            self.size(key)
        except ObjectMissing:
            return False
        return True

    def lines(self, key: str, max_line_bytes: int) -> Iterator[bytes]:
        """An object's lines, streamed; a longer line is cut one byte after the limit, so that it shows.

        Raises:
            ObjectMissing: Nothing is stored there.
        """
        with translated(key), closing(self.client.get_object(Bucket=self.bucket, Key=key)["Body"]) as body:
            yield from cut_lines(body.iter_chunks(64 * 1024), max_line_bytes + 1)

    def put(self, key: str, body: bytes | IO[bytes], content_type: str = "application/octet-stream") -> None:
        """Write an object; writing the same key again replaces it."""
        if self._quick.put(key, body, content_type):
            return
        with translated(key):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

    def copy(self, source: str, key: str) -> None:
        """Write an object with the bytes and the type of another of this bucket, inside the store.

        Raises:
            ObjectMissing: Nothing is stored under `source`.
        """
        with translated(source):
            self.client.copy_object(Bucket=self.bucket, Key=key, CopySource={"Bucket": self.bucket, "Key": source})

    def write_once(self, key: str, body: bytes | IO[bytes], content_type: str = "application/json") -> None:
        """Write an object that is never replaced; writing the same bytes again is not an error.

        Where the store has no conditional writes the check and the write are two steps, and claims keep writers apart.

        Raises:
            WriteConflict: The key holds other bytes.
        """
        if not self.has_conditional_writes and self.exists(key):
            self._compare(key, body)
        elif not self._knows_conditions:
            self.put(key, body, content_type)
        elif not self._put_if_absent(key, body, content_type):
            # A 412 may be the answer to our own write whose first reply was lost: only other bytes are a conflict.
            self._compare(key, body)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a call where the store allows it; those that are not there count as deleted.

        Raises:
            AccessRefused: The store does not delete one of them.
        """
        self._deletes.delete(keys)

    def list(self, prefix: str, start_after: str = "", at_a_time: int = 1000) -> Iterator[ListedObject]:
        """Objects under a prefix, in key order, page by page."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, StartAfter=start_after, PaginationConfig={"PageSize": at_a_time}
        )
        with translated(prefix):
            for page in pages:
                for entry in page.get("Contents", []):
                    yield ListedObject(entry["Key"], entry["Size"], entry["LastModified"])

    def folders(self, prefix: str) -> Iterator[str]:
        """Names one level below a prefix, without the slash."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
        with translated(prefix):
            for page in pages:
                for entry in page.get("CommonPrefixes", []):
                    yield entry["Prefix"].removeprefix(prefix).rstrip("/")

    def presigned_get(self, key: str, seconds: int) -> str:
        """A URL that reads one object for a while."""
        return self.public_client.generate_presigned_url(
            "get_object", {"Bucket": self.bucket, "Key": key}, ExpiresIn=seconds
        )

    def get_signer(self, seconds: int) -> Signer:
        """Makes such URLs at little cost, from the key of each; for one page of them."""
        return signer(self.public_client, self.bucket, seconds)

    def presigned_put(self, key: str, content: PresignedUpload, seconds: int) -> str:
        """A URL that writes exactly this for a while, sent with the content's headers.

        SeaweedFS and S3 refuse other bytes; a store that does not check them takes any of the same size.
        """
        params = {"Bucket": self.bucket, "Key": key, **content.params}
        return self.public_client.generate_presigned_url("put_object", params, ExpiresIn=seconds)

    def ping(self) -> None:
        """Raise unless the bucket answers.

        Raises:
            ObjectMissing: There is no such bucket.
        """
        with translated(self.bucket):
            self.client.head_bucket(Bucket=self.bucket)

    @cached_property
    def has_conditional_writes(self) -> bool:
        """Whether racing conditional writes have one winner here; found by trying, once per process.

        Raises:
            StorageUnavailable: No write has won, since an answer was lost on the way; the next try may tell.
            AccessRefused: Nothing can be written here, with or without a condition.
        """
        key = keys.probe(uuid4().hex)
        try:
            winners = self._race(key)
        except AccessRefused:
            # By 501, or by any other word: what counts is that the store takes the same write without a condition.
            self.put(key, b"", "text/plain")
            self._knows_conditions = False
            winners = PROBE_WRITERS
        self._deletes.delete_one(key)
        if winners == 0:
            raise StorageUnavailable("the object store was tried for conditional writes, and an answer was lost")
        return winners == 1

    def _race(self, key: str) -> int:
        """How many of some writers at once are told that they were the first."""
        with ThreadPoolExecutor(PROBE_WRITERS) as pool:
            outcomes = pool.map(
                lambda number: self._put_if_absent(key, str(number).encode(), "text/plain"), range(PROBE_WRITERS)
            )
            return sum(outcomes)

    def _put_if_absent(self, key: str, body: bytes | IO[bytes], content_type: str) -> bool:
        """Whether this write won."""
        try:
            if self._quick.put(key, body, content_type, new=True):
                return True
            with translated(key):
                self.client.put_object(
                    Bucket=self.bucket, Key=key, Body=body, ContentType=content_type, IfNoneMatch="*"
                )
        except ConditionFailed:
            return False
        return True

    def _compare(self, key: str, body: bytes | IO[bytes]) -> None:
        try:
            with translated(key), closing(self.client.get_object(Bucket=self.bucket, Key=key)["Body"]) as stored:
                theirs = sha256(stored.iter_chunks(64 * 1024))
        except ObjectMissing as error:
            raise StorageUnavailable(f"another writer of {key} is still at it") from error
        if theirs != sha256([body] if isinstance(body, bytes) else from_start(body)):
            raise WriteConflict(f"{key} is write-once and already holds other bytes")


def open_storage(settings: Settings) -> S3Storage:
    """The bucket that the settings name; nothing is sent yet."""
    public = settings.s3_public_endpoint
    return S3Storage(
        boto_client(settings, settings.s3_endpoint), settings.bucket, boto_client(settings, public) if public else None
    )
