"""Where in a larger object a file lies, as HTTP's `Range` header says it."""

from typing import Annotated

from pydantic import StringConstraints

ByteRange = Annotated[str, StringConstraints(pattern=r"^bytes=[0-9]+-[0-9]+$", max_length=64)]


def byte_range(offset: int, length: int) -> ByteRange:
    """The header's value for so many bytes, of which there is at least one."""
    return f"bytes={offset}-{offset + length - 1}"


def span(asked: ByteRange) -> slice:
    """Where those bytes lie."""
    first, last = asked.removeprefix("bytes=").split("-")
    return slice(int(first), int(last) + 1)
