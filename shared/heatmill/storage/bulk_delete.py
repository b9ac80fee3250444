"""Delete many objects: a thousand a call where the store takes such calls, one by one elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING

import structlog

from heatmill.storage.errors import AccessRefused, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The protocol's limit.
KEYS_A_CALL = 1000
CALLS_AT_A_TIME = 8

log = structlog.get_logger()


class BulkDelete:
    """One bucket.

    Args:
        client: A boto3 client that sends a Content-MD5 with `DeleteObjects`; see `boto_client`.
        bucket: The bucket.
    """

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client, self._bucket = client, bucket
        self._is_refused = False

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there count as deleted.

        Raises:
            AccessRefused: The store does not delete one of them.
            StorageUnavailable: It did not answer for one of them; others may be gone.
        """
        with ThreadPoolExecutor(CALLS_AT_A_TIME) as pool:
            left = chain.from_iterable(pool.map(self._together, _batches(keys)))
            list(pool.map(self.delete_one, left))

    def delete_one(self, key: str) -> None:
        """Delete one object."""
        with translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _together(self, keys: Sequence[str]) -> Sequence[str]:
        """Delete by one call; the keys that must be tried alone, where the error of each shows."""
        if self._is_refused or len(keys) == 1:
            return keys
        objects = [{"Key": key} for key in keys]
        try:
            with translated(f"{len(keys)} objects of {keys[0]} and after"):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": objects, "Quiet": True},  # type: ignore[typeddict-item]
                )
        except AccessRefused as error:
            self._is_refused = True
            log.info("objects are deleted one by one: this store takes no DeleteObjects", reason=str(error))
            return keys
        return [fault["Key"] for fault in answer.get("Errors", []) if fault.get("Code") != "NoSuchKey"]


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(keys)
    while batch := list(islice(rest, KEYS_A_CALL)):
        yield batch
