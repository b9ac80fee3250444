"""What a PNG states beside its pixels, chunk by chunk, and whether its pixels' checksums hold."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from io import BytesIO

from PIL import Image, ImageChops

from heatmill.errors import ImageUnreadable

SIGNATURE = b"\x89PNG\r\n\x1a\n"
START, COLOUR_TABLE, END, PIXELS, TRANSPARENT = b"IHDR", b"PLTE", b"IEND", b"IDAT", b"tRNS"
# What says which colours the numbers mean; it stands before the palette and the pixels (PNG 3, section 5.6).
COLOUR_SPACE = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
KEPT = frozenset({START, COLOUR_TABLE, TRANSPARENT}) | COLOUR_SPACE
# Colour types, and how many samples a pixel of each has.
GRAY, RGB, PALETTE = 0, 2, 3
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Where each pass of an interlaced picture begins, and its steps.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PROFILE, TEXT = b"iCCP", frozenset({b"tEXt", b"zTXt", b"iTXt"})
# The text that matters: EXIF, as ImageMagick wrote it before PNG had a chunk for it.
EXIF_AS_TEXT = b"Raw profile type exif\0"
# To which size Pillow decompresses what is no picture, before it gives up the picture; and to which a profile is here.
PILLOWS_MOST, LARGEST_PROFILE = 1 << 20, 4 << 20
# Of what is decompressed to be counted, so much lies in memory.
PIECE = 1 << 20
# Up to so many compressed bytes the end of the pixels is looked at, which means to decompress them a second time.
MOST_CHECKED = 1 << 20


@dataclass(frozen=True)
class PngFacts:
    """The chunks that say what the numbers mean, by name.

    Args:
        is_whole: The end chunk is there.
        idle: Where the chunks begin and end that Pillow need not see.
        ignored: Names of chunks that stand in a wrong place, or are there already, in the order of their coming.
        unknown: Names of chunks that a reader must know to show the image, and that PNG does not have.
    """

    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    is_whole: bool = True
    idle: tuple[tuple[int, int], ...] = ()
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Of a sample."""
        return self.chunks[b"IHDR"][8]

    @property
    def colour_type(self) -> int:
        """0 for gray, 2 for RGB, 3 for a palette, 4 and 6 with alpha."""
        return self.chunks[b"IHDR"][9]

    @property
    def colours(self) -> int:
        """How many the palette has."""
        return len(self.chunks.get(b"PLTE", b"")) // 3

    @property
    def stream_bytes(self) -> int:
        """Of all rows, each with the number of its filter, as they are compressed."""
        width, height = (int.from_bytes(self.chunks[b"IHDR"][place : place + 4], "big") for place in (0, 4))
        bits = self.bits * CHANNELS.get(self.colour_type, 1)
        passes = ADAM7 if self.chunks[b"IHDR"][12] else ((0, 0, 1, 1),)
        sizes = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes]
        return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)

    @property
    def has_wide_transparent_colour(self) -> bool:
        """One RGB colour of 16 bits is transparent; Pillow reads 8 bits of it."""
        return self.bits == 16 and self.colour_type == RGB and len(self.chunks.get(TRANSPARENT, b"")) >= 6


def read_facts(data: bytes) -> PngFacts | None:
    """What a PNG states; None of another file, or of one whose header is broken.

    Raises:
        ImageUnreadable: The checksum of pixels is wrong, which Pillow does not look at; or a palette is missing.
    """
    if not data.startswith(SIGNATURE):
        return None
    facts = _facts(data)
    if len(facts.chunks.get(START, b"")) != 13:
        return None
    if facts.colour_type == PALETTE and not facts.colours:
        raise ImageUnreadable("the image is damaged: its pixels are numbers of a palette, and it has no palette (PLTE)")
    return facts


def _facts(data: bytes) -> PngFacts:
    chunks: dict[bytes, bytes] = {}
    idle, ignored, unknown = list[tuple[int, int]](), list[bytes](), list[bytes]()
    place, name, has_pixels = len(SIGNATURE), b"", False
    for name, content, is_sound in _chunks(data):
        begin, place = place, place + 12 + len(content)
        if not is_sound:
            raise ImageUnreadable("the image is damaged: the checksum of a block of its pixels is wrong")
        has_pixels = has_pixels or name == PIXELS
        is_misplaced = _is_misplaced(name, chunks, has_pixels=has_pixels)
        if is_misplaced:
            ignored.append(name)
        elif name in KEPT:
            chunks.setdefault(name, bytes(content))
        if is_misplaced or _is_idle(name, content):
            idle.append((begin, place))
        unknown += [name] if _is_unknown(name) else []
    return PngFacts(chunks, name == END, tuple(idle), _told(ignored), _told(unknown))


def for_pillow(data: bytes, facts: PngFacts) -> bytes:
    """The file without text, and without a profile that Pillow does not take: either would cost the pixels."""
    begins = [0, *(end for _, end in facts.idle)]
    ends = [*(begin for begin, _ in facts.idle), len(data)]
    view = memoryview(data)
    return b"".join(view[begin:end] for begin, end in zip(begins, ends, strict=True)) if facts.idle else data


def profile(facts: PngFacts) -> bytes | None:
    """The colour profile; None where there is none, or where it is damaged or larger than `LARGEST_PROFILE`."""
    return _decompressed(facts.chunks.get(PROFILE, b""), LARGEST_PROFILE)


def _is_misplaced(name: bytes, before: Mapping[bytes, bytes], *, has_pixels: bool) -> bool:
    """Whether a chunk says too late, too early or again what the numbers mean; libpng ignores it then."""
    if name not in KEPT or name == START:
        return False
    if has_pixels or name in before:
        return True
    if name == TRANSPARENT:
        return before.get(START, b"")[9:10] == bytes([PALETTE]) and COLOUR_TABLE not in before
    return name in COLOUR_SPACE and COLOUR_TABLE in before


def _is_unknown(name: bytes) -> bool:
    """Whether a chunk is critical, by the case of its first letter, and not one of PNG's."""
    return name.isalpha() and name[:1].isupper() and name not in {START, COLOUR_TABLE, PIXELS, END}


def _told(names: list[bytes]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.decode("latin-1") for name in names))


def _is_idle(name: bytes, content: memoryview) -> bool:
    if name in TEXT and (name == b"iTXt" or bytes(content[: len(EXIF_AS_TEXT)]) != EXIF_AS_TEXT):
        return True
    return name in {PROFILE, b"zTXt"} and _decompressed(bytes(content), PILLOWS_MOST) is None


def _decompressed(content: bytes, most: int) -> bytes | None:
    """What stands behind a name and the number of the compression, as in iCCP and zTXt."""
    _, _, packed = content.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(packed[1:], most)
    except zlib.error:
        return None
    return None if packed[:1] != b"\0" or inflate.unconsumed_tail else found


def check_rows(data: bytes, facts: PngFacts, image: Image.Image) -> str | None:
    """Look whether the pixels of all rows are there: Pillow leaves zeros where the stream ends with fewer.

    A stream that lacks its checksum, at which Pillow does not look, is told in a note, up to `MOST_CHECKED` bytes.

    Args:
        data: The file.
        facts: What it states.
        image: As loaded. Where its last rows hold something, a large stream is not decompressed a second time.

    Raises:
        ImageUnreadable: They are not.
    """
    last = (image.crop((0, row, image.width, row + 1)) for row in range(max(image.height - 2, 0), image.height))
    if len(data) > MOST_CHECKED and all(row.tobytes().strip(b"\0") for row in last):
        return None
    inflate, count = zlib.decompressobj(), 0
    for name, content, _ in _chunks(data):
        left = bytes(content) if name == PIXELS else b""
        while left and not inflate.eof:
            count += len(inflate.decompress(left, PIECE))
            left = inflate.unconsumed_tail
    if count < facts.stream_bytes:
        raise ImageUnreadable(
            f"the image is damaged: {count:,} of the {facts.stream_bytes:,} bytes of its pixels are there"
        )
    return None if inflate.eof else "the file is damaged: its pixels end before their checksum"


def notes(facts: PngFacts, image: Image.Image) -> Iterator[str]:
    """What a loaded picture lacks."""
    if not facts.is_whole:
        yield "the file is damaged: it ends before its end marker"
    if facts.ignored:
        names = ", ".join(facts.ignored)
        yield f"the file is damaged: {names} stands in a wrong place of the PNG, or twice, and was ignored there"
    if facts.unknown:
        yield f"the PNG has chunks that a reader must know, and that are not known: {', '.join(facts.unknown)}"
    if facts.colour_type == PALETTE and any(image.histogram()[facts.colours : 256]):
        yield "the file is damaged: some pixels have a colour that its palette lacks"


def transparent_value(facts: PngFacts, value: int) -> int:
    """A gray value that is transparent, as Pillow spreads it over 0 to 255 where it has 2 or 4 bits."""
    return value * 255 // (2**facts.bits - 1) if facts.colour_type == GRAY and facts.bits in {2, 4} else value


def wide_alpha(data: bytes, facts: PngFacts) -> Image.Image:
    """The alpha channel that one transparent 16-bit colour makes; needs both bytes of each sample.

    Pillow has no mode for them: it is asked for the upper bytes, then for the lower ones.
    """
    colour = facts.chunks[TRANSPARENT]
    upper, lower = _bytes_of(data, "RGB;16B"), _bytes_of(data, "RGB;16L")
    differences = (
        image.getchannel(channel).point([0 if level == value else 255 for level in range(256)])
        for channel in range(3)
        for image, value in ((upper, colour[2 * channel]), (lower, colour[2 * channel + 1]))
    )
    return reduce(ImageChops.lighter, differences)


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
