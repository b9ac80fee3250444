"""The numbers of a TIFF's directories; TIFF 6.0, section 2, and BigTIFF."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

MAGIC = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<"}
# More directories are never counted: a file may hold a loop.
MOST_PAGES = 10_000

SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES = 254, 258, 259, 262, 266, 277
HIGHEST, PLANAR, COLOUR_MAP, INK_SET, DOT_RANGE, EXTRA_SAMPLES = 281, 284, 320, 332, 336, 338
SAMPLE_FORMAT, SAMPLE_HIGHEST, JPEG_TABLES, IMAGE_DEPTH = 339, 341, 347, 32997
COEFFICIENTS, SUBSAMPLING, REFERENCE, DNG_VERSION = 529, 530, 532, 50706
OLD_SUBFILE, WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT = 255, 256, 257, 278, 322, 323
# Of colours: Pillow reads them.
WHITE_POINT, PRIMARIES, TRANSFER = 318, 319, 301
# Places and lengths of blocks of pixels.
STRIPS, TILES = (273, 279), (324, 325)
WANTED = frozenset(
    {SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, HIGHEST, PLANAR, COLOUR_MAP, INK_SET}
    | {DOT_RANGE, EXTRA_SAMPLES, SAMPLE_FORMAT, IMAGE_DEPTH, SAMPLE_HIGHEST, JPEG_TABLES, COEFFICIENTS, SUBSAMPLING}
    | {REFERENCE, DNG_VERSION, *STRIPS, *TILES}
    | {OLD_SUBFILE, WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT}
)
TYPES = {
    1: "B",
    3: "H",
    4: "I",
    5: "II",
    6: "b",
    7: "B",
    8: "h",
    9: "i",
    10: "ii",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}

Number = int | float
Tags = Mapping[int, tuple[Number, ...]]


def directories(data: bytes) -> Iterator[Tags]:
    """The tags of each page, in the file's order, as far as they can be read."""
    file = _File(data)
    offset, seen = file.first, set[int]()
    while offset and offset not in seen and len(seen) < MOST_PAGES:
        seen.add(offset)
        try:
            tags, offset = file.directory(offset)
        except (struct.error, KeyError):
            return
        yield tags


def one(tags: Tags, tag: int, absent: Number) -> Number:
    """The first value of a tag."""
    values = tags.get(tag, ())
    return values[0] if values else absent


@dataclass(frozen=True)
class _File:
    data: bytes

    @property
    def order(self) -> str:
        return MAGIC[self.data[:4]]

    @cached_property
    def big(self) -> bool:
        return b"+" in self.data[:4]

    @property
    def first(self) -> int:
        """Where the first directory lies."""
        try:
            return self._read("Q" if self.big else "I", 8 if self.big else 4)
        except struct.error:
            return 0

    def directory(self, offset: int) -> tuple[Tags, int]:
        """Its tags, and where the next one lies."""
        width, entry, pointer = (8, 20, "Q") if self.big else (2, 12, "I")
        count = self._read("Q" if self.big else "H", offset)
        start = offset + width
        if count * entry > len(self.data):
            raise struct.error("more tags than the file has bytes")
        tags = {}
        for place in range(start, start + count * entry, entry):
            tag = self._read("H", place)
            if tag in WANTED:
                tags[tag] = self._values(place, pointer)
        return tags, self._read(pointer, start + count * entry)

    def _values(self, place: int, pointer: str) -> tuple[Number, ...]:
        kind, count = self._read("H", place + 2), self._read(pointer, place + 4)
        code, inline = TYPES.get(kind, ""), place + 4 + struct.calcsize(f"={pointer}")
        size = count * struct.calcsize(f"={code}")
        if not 0 < size <= len(self.data):
            return ()
        offset = inline if size <= struct.calcsize(f"={pointer}") else self._read(pointer, inline)
        values = struct.unpack_from(f"{self.order}{count * len(code)}{code[0]}", self.data, offset)
        return _divided(values) if len(code) == 2 else values

    def _read(self, code: str, offset: int) -> int:
        return int(struct.unpack_from(self.order + code, self.data, offset)[0])


def _divided(values: tuple[Number, ...]) -> tuple[Number, ...]:
    """Rationals: pairs of a numerator and a denominator."""
    return tuple(one / other if other else 0.0 for one, other in zip(values[::2], values[1::2], strict=True))
