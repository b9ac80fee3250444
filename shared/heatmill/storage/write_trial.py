"""Whether the object store takes anything."""

from uuid import uuid4

from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage

# What a heatmap or a commit record takes, or more.
TRIAL_BYTES = 64 * 1024


def try_write(storage: S3Storage, prefix: str = keys.PROBE_PREFIX) -> None:
    """Raise unless something can be written below a prefix; nothing of it stays.

    Raises:
        StorageFull: There is no room for it.
        AccessRefused: Writing is not allowed.
        StorageUnavailable: The store fails.
    """
    key = f"{prefix}{uuid4().hex}"
    storage.put(key, bytes(TRIAL_BYTES))
    storage.delete([key])
