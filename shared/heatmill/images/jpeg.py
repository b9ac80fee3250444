"""What a JPEG's header states, and where its stream cannot be what an encoder wrote: ITU-T T.81, annexes B and F."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from heatmill.images.damage import DAMAGE

START = b"\xff\xd8"
# Markers that stand alone, without a length.
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
ARITHMETIC = frozenset(range(0xC9, 0xD0))
TABLES, END, SCAN = 0xC4, 0xD9, 0xDA
# What ends the compressed pixels of a scan: a marker that is neither a stuffed byte nor a restart.
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# A disk or a network that loses bytes leaves zeros. So many of them stand for three blocks of pixels at least.
ZEROS = bytes(64)
COEFFICIENTS = 64
# Above it are the tables of AC coefficients.
AC = 0x10


@dataclass(frozen=True)
class JpegFacts:
    """What decoding takes.

    Args:
        bits: Of a sample.
        components: Of a pixel.
        is_buffered: Several scans make the picture, so that the decoder holds the whole of it, however small the
            picture is that it makes.
    """

    bits: int
    components: int
    is_buffered: bool


def jpeg_facts(data: bytes) -> JpegFacts | None:
    """What the header states; None of another file, or where there is no header."""
    bits, components, is_progressive = 0, 0, False
    for marker, content, _ in _segments(data):
        if marker in FRAMES and len(content) >= 6:
            bits, components, is_progressive = content[0], content[5], marker in PROGRESSIVE
        if marker == SCAN:
            several = is_progressive or content[:1] < bytes([components])
            return JpegFacts(bits, components, several) if components else None
    return None


def zeros_inside(data: bytes) -> bool:
    """Whether a run of zeros stands among compressed pixels where no encoder writes one.

    The first code of a table, which zeros stand for, is then not that of an unchanged or empty block, so that zeros
    would be blocks of nothing but equal coefficients. Decoders take them without a warning where the count of blocks
    happens to be right in the end.
    """
    if not data.startswith(START) or ZEROS not in data:
        return False
    first: dict[int, int] = {}
    frame = 0
    for marker, content, position in _segments(data):
        if marker in FRAMES:
            frame = marker
        if marker == TABLES:
            first |= _first_symbols(content)
        if marker == SCAN and frame not in ARITHMETIC:
            end = SCAN_END.search(data, position)
            stop = len(data) if end is None else end.start()
            if data.find(ZEROS, position, stop) >= 0 and not _may_be_zeros(content, first, frame):
                return True
    return False


def lacks_scans(data: bytes) -> bool:
    """Whether a progressive JPEG ends before all bits of all coefficients: decoders show a coarser picture."""
    missing: dict[tuple[int, int], int] = {}
    for marker, content, _ in _segments(data):
        if marker in FRAMES:
            if marker not in PROGRESSIVE:
                return False
            missing = {(component, place): 1 for component in content[6::3] for place in range(COEFFICIENTS)}
        if marker == SCAN:
            count = content[0]
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            for component in content[1 : 1 + 2 * count : 2]:
                missing |= {(component, place): bits & 15 for place in range(first, last + 1)}
    return any(missing.values())


def _may_be_zeros(scan: bytes, first: dict[int, int], frame: int) -> bool:
    """Whether an encoder may write many zeros in this scan."""
    count = scan[0]
    start, refines = scan[1 + 2 * count], scan[3 + 2 * count] >> 4
    selectors = scan[2 : 2 + 2 * count : 2]
    unchanged = all(first.get(selector >> 4) == 0 for selector in selectors)
    if frame in PROGRESSIVE:
        # Empty blocks in a row have one code; those of the lowest frequency have each its own.
        return start == 0 and (refines > 0 or unchanged)
    return unchanged and all(first.get(AC | (selector & 15)) == 0 for selector in selectors)


def _first_symbols(content: bytes) -> dict[int, int]:
    """Of each table of codes, the symbol of the first code, which is all zeros."""
    symbols, position = {}, 0
    while position + 17 < len(content):
        count = sum(content[position + 1 : position + 17])
        symbols[content[position]] = content[position + 17]
        position += 17 + count
    return symbols


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, content, and where the segment ends; of the first picture in the file."""
    if not data.startswith(START):
        return
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xFF or marker in ALONE:
            # Fill bytes are allowed, and others are skipped, as decoders do.
            position += 2 if data[position] == 0xFF and marker in ALONE else 1
            continue
        if marker == END:
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : end], end
        position = end
        if marker == SCAN:
            found = SCAN_END.search(data, end)
            position = len(data) if found is None else found.start()


def whole_pictures(data: bytes) -> int:
    """How many pictures of an MPO are in colour and as large as the first, and so no maps for bright screens."""
    count = 1
    with suppress(*DAMAGE), Image.open(BytesIO(data), formats=("JPEG",)) as image:
        first = (image.size, "RGB")
        for number in range(1, getattr(image, "n_frames", 1)):
            image.seek(number)
            count += (image.size, image.mode) == first
    return count
