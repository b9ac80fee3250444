"""Read an item's image bytes from where its URI says they lie."""

import hashlib
from contextlib import suppress

from heatmill.errors import ImageNotFound, ImageTooLarge, ImageUnreadable
from heatmill.images.source_uri import ImageAddress, SourceRules, UriRefused, address
from heatmill.storage.bucket import AccessRefused, ObjectMissing, S3Storage


def fetch(uri: str, storage: S3Storage, rules: SourceRules, max_bytes: int) -> bytes:
    """The bytes of one image.

    An upload with other bytes than its name promises is deleted: while it lies there, nobody is asked to upload it
    again, and the image would fail for ever.

    Raises:
        ImageNotFound: Nothing lies there, or the tenant may not read it.
        ImageTooLarge: More bytes than the limit; they are not read.
        ImageUnreadable: An upload whose bytes are not those that its name promises.
        StorageUnavailable: The store does not answer.
    """
    try:
        place = address(uri, storage, rules)
        # One byte more than the limit tells whether there is more, without a second request.
        data = place.storage.get(place.key, max_bytes=max_bytes + 1)
    except UriRefused as error:
        raise ImageNotFound(str(error)) from error
    except ObjectMissing as error:
        raise ImageNotFound(_nothing_under(uri)) from error
    except AccessRefused as error:
        raise ImageNotFound(f"{uri} may not be read by this service") from error
    if len(data) > max_bytes:
        raise ImageTooLarge(f"{uri} has more than {max_bytes:,} bytes, the limit")
    if place.sha256 and hashlib.sha256(data).hexdigest() != place.sha256:
        _remove(place)
        raise ImageUnreadable(f"the bytes stored under {uri} had another sha256 and were removed; upload it again")
    return data


def _nothing_under(uri: str) -> str:
    hint = "; it was not uploaded, or refused for its size" if uri.startswith("upload://") else ""
    return f"nothing is stored under {uri}{hint}"


def _remove(place: ImageAddress) -> None:
    # A worker that may not delete still says what is wrong; to try again would not help.
    with suppress(AccessRefused):
        place.storage.delete([place.key])
