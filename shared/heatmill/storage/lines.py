"""Lines of a stream that comes in chunks."""

from collections.abc import Iterable, Iterator

# A source without the end of a line for so long is no list of lines: nobody would see it end.
MAX_GAP = 64 * 2**20


class LineTooLong(Exception):
    """No line ends for longer than a list of lines can have it."""


def cut_lines(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Lines without their ends, at most `most` bytes of each; never holds more than a chunk and a line.

    Raises:
        LineTooLong: One has more than `MAX_GAP` bytes.
    """
    begun, gap = b"", 0
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        gap = 0 if others else gap + len(first)
        if gap > MAX_GAP:
            raise LineTooLong(f"a line has more than {MAX_GAP // 2**20} MiB")
        begun = (begun + first)[:most]
        for line in others:
            yield begun.removesuffix(b"\r")
            begun = line[:most]
    if begun:
        yield begun.removesuffix(b"\r")
