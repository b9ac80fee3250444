"""The kinds of image that are read, as file names, HTTP and Pillow call them."""

from collections.abc import Mapping
from typing import Literal

ImageType = Literal[
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/tiff",
    "image/gif",
    "image/avif",
    "image/heic",
    "image/heif",
]

# Pillow's names of what is read everywhere; HEIC needs an extra.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")

# By the ending of a file's name, in lower case.
IMAGE_TYPES: Mapping[str, ImageType] = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
}


NO_TABLES = "lists of images as JSON lines (.jsonl, .ndjson); CSV and other tables are not read"


def ending(name: str) -> str:
    """A file name's ending from its last dot on, in lower case; empty where it has no dot."""
    _, dot, last = name.rpartition(".")
    return dot and dot + last.lower()
