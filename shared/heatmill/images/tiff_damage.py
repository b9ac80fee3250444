"""Damage inside of a TIFF's compressed pixels that libtiff does not tell of.

Deflate ends with a checksum, at which libtiff does not look once it has as many bytes as it needs; of a JPEG's warnings
it says nothing. LZW and LZMA fail by themselves. PackBits, fax and uncompressed pixels have nothing to check.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from heatmill.errors import ImageUnreadable
from heatmill.images.damage import DAMAGE
from heatmill.images.jpeg import zeros_inside
from heatmill.images.photo import JpegDecoder, JpegWarning
from heatmill.images.tiff_tags import (
    BITS,
    COMPRESSION,
    FILL_ORDER,
    HEIGHT,
    JPEG_TABLES,
    PLANAR,
    ROWS_PER_STRIP,
    SAMPLES,
    STRIPS,
    TILE_HEIGHT,
    TILE_WIDTH,
    TILES,
    WIDTH,
    Tags,
    one,
)

RAW, DEFLATE, JPEG = 1, frozenset({8, 32946}), 7
SEPARATE = 2
# The lowest bit of each byte comes first.
LOWEST_FIRST = 2
TURNED = bytes(int(f"{number:08b}"[::-1], 2) for number in range(256))
# Of what is decompressed to look at its checksum, so much lies in memory.
PIECE = 1 << 20
# A block of pixels that grows by more is not followed to its end.
MOST_GROWTH = 1 << 28


def check_blocks(tags: Tags) -> None:
    """Look whether each strip or tile is there, and no other.

    Pillow leaves black, or other bytes of the file, where one is not there; it begins again at the top with one too
    many, and does not look at the lengths of uncompressed ones.

    Raises:
        ImageUnreadable: One is not, or is too short, or there are more.
    """
    places = tags.get(STRIPS[0], ()) or tags.get(TILES[0], ())
    width, height = (int(one(tags, tag, 0)) for tag in (WIDTH, HEIGHT))
    if not places or not width or not height:
        # Pillow says what is wrong.
        return
    grid = _grid(tags, width, height)
    expected = grid.count * (int(one(tags, SAMPLES, 1)) if _is_separate(tags) else 1)
    missing = expected - sum(1 for place in places[:expected] if place > 0)
    if missing:
        raise ImageUnreadable(f"the image is damaged: {missing} of its {expected} blocks of pixels are missing")
    if len(places) > expected:
        raise ImageUnreadable(
            f"a TIFF with {len(places)} blocks of pixels, where its size needs {expected}, is not read"
        )
    if one(tags, COMPRESSION, RAW) == RAW:
        _check_lengths(tags, grid, height)


@dataclass(frozen=True)
class _Grid:
    """Columns and rows of a whole block, and how many of them make a plane."""

    across: int
    down: int
    count: int


def _grid(tags: Tags, width: int, height: int) -> _Grid:
    if STRIPS[0] in tags:
        rows = min(max(int(one(tags, ROWS_PER_STRIP, height)), 1), height)
        return _Grid(width, rows, -(-height // rows))
    across, down = (max(int(one(tags, tag, 1)), 1) for tag in (TILE_WIDTH, TILE_HEIGHT))
    return _Grid(across, down, -(-width // across) * -(-height // down))


def _is_separate(tags: Tags) -> bool:
    return one(tags, PLANAR, 1) == SEPARATE


def _check_lengths(tags: Tags, grid: _Grid, height: int) -> None:
    bits = int(one(tags, BITS, 1)) * (1 if _is_separate(tags) else int(one(tags, SAMPLES, 1)))
    line, has_strips = -(-grid.across * bits // 8), STRIPS[0] in tags
    for number, length in enumerate(tags.get((STRIPS if has_strips else TILES)[1], ())):
        # The last strip ends with the picture; all tiles are whole.
        rows = min(grid.down, height - number % grid.count * grid.down) if has_strips else grid.down
        if length < rows * line:
            raise ImageUnreadable(
                f"the image is damaged: {length:,} of the {rows * line:,} bytes of a block of its pixels are there"
            )


def damage(data: bytes, tags: Tags, decode_jpeg: JpegDecoder | None) -> str | None:
    """A note on the first damaged block of the first page."""
    compression = tags.get(COMPRESSION, (1,))[0]
    if compression in DEFLATE:
        return _deflate_damage(data, tags)
    if compression == JPEG and decode_jpeg is not None:
        return _jpeg_damage(data, tags, decode_jpeg)
    return None


def _deflate_damage(data: bytes, tags: Tags) -> str | None:
    is_turned = one(tags, FILL_ORDER, 1) == LOWEST_FIRST
    for block in _blocks(data, tags):
        stored = bytes(block)
        inflate, left, grown = zlib.decompressobj(), stored.translate(TURNED) if is_turned else stored, 0
        try:
            while left and not inflate.eof and grown < MOST_GROWTH:
                grown += len(inflate.decompress(left, PIECE))
                left = inflate.unconsumed_tail
        except zlib.error as error:
            return f"the file is damaged; a compressed block of its pixels: {error}"
    return None


def _jpeg_damage(data: bytes, tags: Tags, decode_jpeg: JpegDecoder) -> str | None:
    tables = bytes(int(value) for value in tags.get(JPEG_TABLES, ()))
    for block in _blocks(data, tags):
        # The tables are a JPEG without a picture: its end marker and the picture's start marker are left out.
        stream = tables[:-2] + bytes(block[2:]) if tables else bytes(block)
        if zeros_inside(stream):
            return "the file is damaged: zeros stand where compressed pixels were"
        try:
            with Image.open(BytesIO(stream), formats=("JPEG",)) as opened:
                decode_jpeg(stream, opened)
        except JpegWarning as warning:
            return f"the file is damaged; the decoder's warning: {warning}"
        except DAMAGE as error:
            return f"the file is damaged; a block of its pixels: {error}"
    return None


def _blocks(data: bytes, tags: Tags) -> Iterator[memoryview]:
    """The strips or tiles, as they are stored."""
    view = memoryview(data)
    for offsets, lengths in (STRIPS, TILES):
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            yield view[int(offset) : int(offset) + int(length)]
