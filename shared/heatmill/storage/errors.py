"""What the object store says when it does not do what was asked: boto3's errors, turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from botocore.exceptions import BotoCoreError, ClientError

from heatmill.errors import StorageFull, StorageUnavailable

# 4xx codes that are worth retrying; all others are permanent.
PASSING = frozenset(
    {"408", "429", "RequestTimeout", "RequestTimeTooSkewed", "ExpiredToken", "IncompleteBody", "SlowDown"}
)


# What stores say that have no room: MinIO, Ceph, OpenStack, those with quotas.
FULL = frozenset(
    {"507", "InsufficientStorage", "StorageFull", "XMinioStorageFull", "XMinioDiskFull", "DiskFull", "NoSpaceLeft"}
    | {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "BucketQuotaExceeded", "StorageQuotaExceeded"}
)


class ObjectMissing(LookupError):
    """Nothing is stored under this key."""


class BucketMissing(ObjectMissing, StorageUnavailable):
    """There is no such bucket: a reader finds nothing, and a writer can only hope that somebody makes it."""


class WriteConflict(Exception):
    """A write-once key already holds other bytes."""


class AccessRefused(StorageUnavailable):
    """Asking again does not help: missing rights, an archived object, a name that the store cannot hold."""


class NotSupported(AccessRefused):
    """The store does not know what it was asked for."""


class ConditionFailed(Exception):
    """Somebody else wrote the key first."""


class EmptyRange(ObjectMissing):
    """Bytes were asked for that an object does not have: the first ones of an empty one, say."""


# Codes, what they mean, and what is said. The numbers are what botocore makes of an answer to HEAD, which has no body.
# Of most the key alone is said: whoever catches them knows what it is for.
MEANINGS: tuple[tuple[frozenset[str], type[Exception], str], ...] = (
    (frozenset({"404", "NoSuchKey", "NotFound"}), ObjectMissing, "{key}"),
    (frozenset({"NoSuchBucket"}), BucketMissing, "the object store has no bucket for {key}"),
    (frozenset({"412", "PreconditionFailed"}), ConditionFailed, "{key}"),
    (frozenset({"409", "ConditionalRequestConflict", "OperationAborted"}), ConditionFailed, "{key}"),
    (
        frozenset({"501", "NotImplemented", "405", "MethodNotAllowed"}),
        NotSupported,
        "the object store does not know what was asked of it for {key}: {code}",
    ),
    (frozenset({"416", "InvalidRange"}), EmptyRange, "{key}"),
)


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn boto3's errors into ours."""
    try:
        yield
    except ClientError as error:
        raise _meaning(error, key) from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"the object store does not answer: {error}") from error


def _meaning(error: ClientError, key: str) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for codes, kind, text in MEANINGS:
        if code in codes:
            return kind(text.format(key=key, code=code))
    if code in FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull(f"the object store has no room for {key}: {code}")
    if 400 <= (status or 500) < 500 and code not in PASSING:
        return AccessRefused(f"the object store refuses {key} for good: {code}")
    return StorageUnavailable(f"the object store refused {key}: {code}")
