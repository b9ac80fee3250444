"""A form whose parts have short headers: Werkzeug gathers a header in memory, however long it is."""

import re
from typing import IO

from heatmill.errors import MalformedRequest

# A file's name has at most 255 bytes, or three times as many characters where each is percent-encoded.
MAX_HEADER_BYTES = 16 * 1024
BLANK_LINE = re.compile(rb"\r\n\r\n|\r\r|\n\n")


class ShortHeaders:
    """The stream of a form, which ends where the header of a part is too long.

    What fits into one `read` passes in any case.

    Args:
        stream: The form as it was sent.
        boundary: What stands between its parts.
    """

    def __init__(self, stream: IO[bytes], boundary: bytes) -> None:
        self._stream, self._boundary = stream, b"--" + boundary
        self._header: int | None = None
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            MalformedRequest: A header has more bytes than the limit.
        """
        data = self._stream.read(size)
        seen = self._last + data
        _, boundary, after = seen.rpartition(self._boundary)
        if boundary:
            self._header, seen = len(after), after
        elif self._header is not None:
            self._header += len(data)
        if self._header is not None and BLANK_LINE.search(seen):
            self._header = None
        if (self._header or 0) > MAX_HEADER_BYTES:
            raise MalformedRequest(f"a part of the form has a header of over {MAX_HEADER_BYTES:,} bytes, the limit")
        self._last = seen[-len(self._boundary) :]
        return data
