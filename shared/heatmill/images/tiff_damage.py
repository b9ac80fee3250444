"""Damage inside of a TIFF's compressed pixels that libtiff does not tell of.

Deflate ends with a checksum, at which libtiff does not look once it has as many bytes as it needs; of a JPEG's warnings
it says nothing. LZW and LZMA fail by themselves. PackBits, fax and uncompressed pixels have nothing to check.
"""

import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

from heatmill.errors import ImageUnreadable
from heatmill.images.damage import DAMAGE
from heatmill.images.jpeg import zeros_inside
from heatmill.images.photo import JpegDecoder, JpegWarning
from heatmill.images.tiff_tags import (
    COMPRESSION,
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
)

DEFLATE, JPEG = frozenset({8, 32946}), 7
SEPARATE = 2
# Of what is decompressed to look at its checksum, so much lies in memory.
PIECE = 1 << 20
# A block of pixels that grows by more is not followed to its end.
MOST_GROWTH = 1 << 28


def check_blocks(tags: Tags) -> None:
    """Look whether each strip or tile is there; Pillow leaves black, or other bytes of the file, where one is not.

    Raises:
        ImageUnreadable: One is not.
    """
    places = tags.get(STRIPS[0], ()) or tags.get(TILES[0], ())
    width, height = (int(tags.get(tag, (0,))[0]) for tag in (WIDTH, HEIGHT))
    if not places or not width or not height:
        # Pillow says what is wrong.
        return
    if STRIPS[0] in tags:
        expected = -(-height // max(int(tags.get(ROWS_PER_STRIP, (height,))[0]), 1))
    else:
        across, down = (max(int(tags.get(tag, (1,))[0]), 1) for tag in (TILE_WIDTH, TILE_HEIGHT))
        expected = -(-width // across) * -(-height // down)
    if tags.get(PLANAR, (1,))[0] == SEPARATE:
        expected *= int(tags.get(SAMPLES, (1,))[0])
    missing = expected - sum(1 for place in places[:expected] if place > 0)
    if missing:
        raise ImageUnreadable(f"the image is damaged: {missing} of its {expected} blocks of pixels are missing")


def damage(data: bytes, tags: Tags, decode_jpeg: JpegDecoder | None) -> str | None:
    """A note on the first damaged block of the first page."""
    compression = tags.get(COMPRESSION, (1,))[0]
    if compression in DEFLATE:
        return _deflate_damage(data, tags)
    if compression == JPEG and decode_jpeg is not None:
        return _jpeg_damage(data, tags, decode_jpeg)
    return None


def _deflate_damage(data: bytes, tags: Tags) -> str | None:
    for block in _blocks(data, tags):
        inflate, left, grown = zlib.decompressobj(), bytes(block), 0
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
