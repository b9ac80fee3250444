"""Objects by obstore, whose calls take a fifth of the processor's time that boto3's take, and not Python's lock.

An image costs a worker a read and two writes, beside the thread that keeps the device busy. Only what simply works is
done here; for everything else boto3 is asked, again, and its answer counts.
"""

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal, TypeVar

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import S3Store

from heatmill.storage.errors import ConditionFailed, ObjectMissing
from heatmill.storage.s3_client import credentials_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import S3Credential

T = TypeVar("T")

# Of keys as heatmill makes them. obstore takes slashes off others, and so finds another object.
SEGMENT = r"(?!\.{1,2}(/|$))[\w.-]+"
KEY = re.compile(f"{SEGMENT}(/{SEGMENT})*", re.ASCII)
LARGEST_BODY = 4 * 2**20
# Of a connection and of each read; of a whole request.
READ_TIMEOUT = timedelta(seconds=5)
REQUEST_TIMEOUT = timedelta(seconds=30)
# A store in trouble is left to boto3 and its retries for a while. One that refuses a request is in none.
REST_SECONDS = 30.0
REFUSED = re.compile("status code: (4|501)")
# obstore asks again when five minutes are left; botocore renews credentials ten minutes before they end.
CREDENTIALS_FOR = timedelta(minutes=10)

log = structlog.get_logger()


class FastObjects:
    """One bucket. Safe in threads, not beyond a fork: a child of a process that has used it is left to boto3.

    Args:
        client: Whose endpoint and credentials are used.
        bucket: The bucket.
    """

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client, self._bucket = client, bucket
        self._disabled_until = 0.0

    def get(self, key: str, max_bytes: int | None = None) -> bytes | None:
        """An object, or its first `max_bytes`; None where boto3 is to be asked.

        Raises:
            ObjectMissing: Nothing is stored there.
        """

        def read(store: S3Store) -> bytes:
            found = obstore.get(store, key, options={} if max_bytes is None else {"range": (0, max_bytes)})
            return found.bytes().to_bytes()

        try:
            return self._tried(key, read)
        except FileNotFoundError as error:
            if "<Code>NoSuchKey</Code>" in str(error):
                raise ObjectMissing(key) from error
            return None

    def size(self, key: str) -> int | None:
        """Bytes of an object; None where boto3 is to be asked.

        Raises:
            ObjectMissing: Nothing is stored there.
        """
        try:
            return self._tried(key, lambda store: obstore.head(store, key)["size"])
        except FileNotFoundError as error:
            raise ObjectMissing(key) from error

    def put(self, key: str, body: object, content_type: str, *, new: bool = False) -> bool:
        """Write an object; False where boto3 is to be asked.

        Args:
            key: Of the object.
            body: Only bytes are written here, and no more than 4 MiB.
            content_type: As it is served.
            new: Write only if nothing is stored there.

        Raises:
            ConditionFailed: Something is.
        """
        if not isinstance(body, bytes) or len(body) > LARGEST_BODY:
            return False

        def write(store: S3Store) -> bool:
            mode: Literal["create", "overwrite"] = "create" if new else "overwrite"
            obstore.put(store, key, body, mode=mode, attributes={"Content-Type": content_type}, use_multipart=False)
            return True

        try:
            return self._tried(key, write) or False
        except FileNotFoundError:
            return False
        except AlreadyExistsError as error:
            if new:
                raise ConditionFailed(key) from error
            return False

    def _tried(self, key: str, call: Callable[[S3Store], T]) -> T | None:
        """The call's result, or None if boto3 must be asked instead."""
        if not KEY.fullmatch(key) or time.monotonic() < self._disabled_until or os.getpid() != _user():
            return None
        try:
            return call(self._store)
        except AlreadyExistsError:
            raise
        except (BaseError, ValueError) as error:
            if isinstance(error, GenericError | ValueError) and not REFUSED.search(str(error)):
                self._disabled_until = time.monotonic() + REST_SECONDS
                log.info("boto3 alone for a while", bucket=self._bucket, reason=str(error).partition("\n")[0])
            return None

    @cached_property
    def _store(self) -> S3Store:
        endpoint = self._client.meta.endpoint_url
        return S3Store(
            self._bucket,
            region=self._client.meta.region_name,
            credential_provider=self._credentials,
            virtual_hosted_style_request=False,
            # Said although they are the defaults: obstore would take others from the environment, which boto3 does not.
            aws_endpoint_url_s3=endpoint,
            conditional_put="etag",
            skip_signature=False,
            s3_express=False,
            client_options={
                "allow_http": endpoint.startswith("http:"),
                "connect_timeout": READ_TIMEOUT,
                "read_timeout": READ_TIMEOUT,
                "timeout": REQUEST_TIMEOUT,
            },
            retry_config={"max_retries": 0},
        )

    def _credentials(self) -> "S3Credential":
        found = credentials_of(self._client)
        if found is None:
            raise LookupError("boto3 found no credentials")
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_FOR,
        }


@cache
def _user() -> int:
    """The process that uses obstore, whose threads do not live on in a fork."""
    return os.getpid()
