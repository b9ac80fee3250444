"""Checksums of what is streamed, and in the forms that stores want."""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from typing import IO

PART = 64 * 1024


def sha256(parts: Iterable[bytes]) -> bytes:
    """Of parts that follow each other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def from_start(file: IO[bytes]) -> Iterator[bytes]:
    """A file's parts, wherever it has been read to."""
    file.seek(0)
    return iter(lambda: file.read(PART), b"")


def content_md5(body: bytes) -> str:
    """As the header `Content-MD5` has it; it protects against damage and not against anybody."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
