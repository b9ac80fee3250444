"""What a PNG states beside its pixels, chunk by chunk, and whether its pixels' checksums hold."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image, ImageChops

from heatmill.errors import ImageUnreadable

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END, PIXELS, TRANSPARENT = b"IEND", b"IDAT", b"tRNS"
KEPT = frozenset({b"IHDR", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", TRANSPARENT})
# Colour types.
GRAY, RGB = 0, 2


@dataclass(frozen=True)
class PngFacts:
    """The chunks that say what the numbers mean, by name.

    Args:
        is_whole: The end chunk is there.
    """

    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    is_whole: bool = True

    @property
    def bits(self) -> int:
        """Of a sample."""
        return self.chunks[b"IHDR"][8]

    @property
    def colour_type(self) -> int:
        """0 for gray, 2 for RGB, 3 for a palette, 4 and 6 with alpha."""
        return self.chunks[b"IHDR"][9]

    @property
    def has_wide_transparent_colour(self) -> bool:
        """One RGB colour of 16 bits is transparent; Pillow reads 8 bits of it."""
        return self.bits == 16 and self.colour_type == RGB and len(self.chunks.get(TRANSPARENT, b"")) >= 6


def read_facts(data: bytes) -> PngFacts | None:
    """What a PNG states; None of another file, or of one whose header is broken.

    Raises:
        ImageUnreadable: The checksum of pixels is wrong, which Pillow does not look at.
    """
    if not data.startswith(SIGNATURE):
        return None
    chunks: dict[bytes, bytes] = {}
    name = b""
    for name, content, is_sound in _chunks(data):
        if name == PIXELS and not is_sound:
            raise ImageUnreadable("the image is damaged: the checksum of a block of its pixels is wrong")
        if name in KEPT:
            chunks.setdefault(name, bytes(content))
    return PngFacts(chunks, name == END) if len(chunks.get(b"IHDR", b"")) == 13 else None


def transparent_value(facts: PngFacts, value: int) -> int:
    """A gray value that is transparent, as Pillow spreads it over 0 to 255 where it has 2 or 4 bits."""
    return value * 255 // (2**facts.bits - 1) if facts.colour_type == GRAY and facts.bits in {2, 4} else value


def wide_alpha(data: bytes, facts: PngFacts) -> Image.Image:
    """The alpha channel that one transparent 16-bit colour makes; needs both bytes of each sample.

    Pillow has no mode for them: it is asked for the upper bytes, then for the lower ones.
    """
    colour = facts.chunks[TRANSPARENT]
    upper, lower = _bytes_of(data, "RGB;16B"), _bytes_of(data, "RGB;16L")
    differs = None
    for channel in range(3):
        for image, value in ((upper, colour[2 * channel]), (lower, colour[2 * channel + 1])):
            other = image.getchannel(channel).point([0 if level == value else 255 for level in range(256)])
            differs = other if differs is None else ImageChops.lighter(differs, other)
    if differs is None:
        raise ValueError("a picture has channels")
    return differs


def _bytes_of(data: bytes, layout: str) -> Image.Image:
    with Image.open(BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        image.load()
        return image.copy()


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Name, content and whether the checksum holds, up to the end chunk or the end of the file."""
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length, name = int.from_bytes(view[position : position + 4], "big"), bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            return
        checksum = int.from_bytes(view[end : end + 4], "big")
        # Only that of pixels is asked for, and costs the time.
        is_sound = name != PIXELS or zlib.crc32(view[position + 4 : end]) == checksum
        yield name, view[position + 8 : end], is_sound
        if name == END:
            return
        position = end + 4
