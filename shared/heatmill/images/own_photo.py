"""An overlay of any size, made by whoever has the photo: the service need not read it for that."""

import hashlib
from io import BytesIO

from PIL import Image

from heatmill.errors import InvalidRequest
from heatmill.images.decode import decode
from heatmill.images.overlay import overlay
from heatmill.images.photo import ImageLimits
from heatmill.schemas import Row, StoredPicture

# More than a service takes where its operator sets nothing else: this is the caller's own memory.
LIMITS = ImageLimits(max_bytes=2**30, max_pixels=400_000_000)
ALPHA = 0.6


def overlay_own_photo(
    photo: bytes,
    row: Row,
    heatmap: bytes,
    *,
    alpha: float = ALPHA,
    size: int | None = None,
) -> Image.Image:
    """Lay a heatmap over what the model saw of a photo, decoded whole.

    Args:
        photo: The file that was explained.
        row: The result; says which part of the photo the model saw.
        heatmap: The PNG of the result.
        alpha: 0 shows the photo only, 1 the heatmap only.
        size: Longer side of the answer in pixels; as many as the photo has there where none is given.

    Raises:
        InvalidRequest: The result has no heatmap, or the photo is not the one that was explained.
        ImageUnreadable: The photo cannot be read.
        ImageTooLarge: It has more than 1 GiB or 400 megapixels.
    """
    stored = _drawn(row)
    _check_same(photo, row)
    left, top, right, bottom = stored.box
    with Image.open(BytesIO(heatmap), formats=["PNG"]) as above:
        return overlay(decode(photo, LIMITS), above, stored.box, alpha, size or round(max(right - left, bottom - top)))


def _drawn(row: Row) -> StoredPicture:
    if row.heatmap is None:
        raise InvalidRequest(f"{row.item}: {row.method} has no heatmap")
    return row.heatmap


def _check_same(photo: bytes, row: Row) -> None:
    # Rows of older jobs do not say what was read.
    if row.image is not None and row.image.sha256 not in {None, hashlib.sha256(photo).hexdigest()}:
        raise InvalidRequest(f"these bytes are not the photo of {row.item} as it was explained")
