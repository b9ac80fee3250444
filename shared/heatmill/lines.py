"""Lines of a stream that comes in chunks."""

from collections.abc import Iterable, Iterator


def cut_lines(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Lines without their ends, at most `most` bytes of each; never holds more than a chunk and a line."""
    begun = b""
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun = (begun + first)[:most]
        for line in others:
            yield begun.removesuffix(b"\r")
            begun = line[:most]
    if begun:
        yield begun.removesuffix(b"\r")
