"""What the samples of a TIFF mean, by what the file states; what Pillow would read otherwise is refused by name.

TIFF 6.0 fixes a range for unsigned integers: 0 to 2**bits - 1, from black to white or from white to black. Signed and
floating-point samples have none, and are refused. A file whose MaxSampleValue or SMaxSampleValue leaves the highest bit
unused, as 12 bits in 16 do, is read by the range that it states.
"""

from dataclasses import dataclass
from itertools import islice

from PIL import Image, ImageOps, TiffImagePlugin

from heatmill.errors import ImageUnreadable
from heatmill.images.gray import scaled_gray
from heatmill.images.tiff_damage import check_blocks
from heatmill.images.tiff_tags import (
    BITS,
    COEFFICIENTS,
    COLOUR_MAP,
    COMPRESSION,
    DNG_VERSION,
    DOT_RANGE,
    EXTRA_SAMPLES,
    FILL_ORDER,
    HIGHEST,
    INK_SET,
    LOWEST,
    MAGIC,
    OLD_SUBFILE,
    PHOTOMETRIC,
    PLANAR,
    REFERENCE,
    SAMPLE_FORMAT,
    SAMPLE_HIGHEST,
    SAMPLE_LOWEST,
    SAMPLES,
    SUBFILE,
    SUBSAMPLING,
    Number,
    Tags,
    directories,
)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3, LAB: 3}
# How many bits a sample may have.
DEPTHS = {
    WHITE_IS_ZERO: {1, 2, 4, 8, 12, 16},
    BLACK_IS_ZERO: {1, 2, 4, 8, 12, 16},
    RGB: {8, 16},
    PALETTE: {1, 2, 4, 8},
    INKS: {8, 16},
    YCBCR: {8},
    LAB: {8},
}
NAMES = {
    WHITE_IS_ZERO: "white-is-zero gray",
    BLACK_IS_ZERO: "gray",
    RGB: "RGB",
    PALETTE: "palette",
    4: "transparency mask",
    INKS: "CMYK",
    YCBCR: "YCbCr",
    LAB: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "colour filter array (a camera's raw data)",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
    51177: "depth map",
}
FORMATS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex integer", 6: "complex floating-point"}
# Extra samples that are alpha: premultiplied, and not.
MULTIPLIED, STRAIGHT = 1, 2
RAW, OLD_JPEG = 1, 6
REDUCED_VERSION, OLD_REDUCED = 1, 2
CANON_RAW, RAW_DATA = b"CR\2", "a camera's raw data"

# Layouts that Pillow unpacks but does not list: white is zero, or the bytes are in the other order, which those of 12
# packed bits do not have. The values come as they are stored; what is white is settled here.
for _prefix, _photometric, _bits, _modes in (
    (b"MM", WHITE_IS_ZERO, 16, ("I;16B", "I;16B")),
    (b"II", WHITE_IS_ZERO, 12, ("I;16", "I;12")),
    (b"MM", WHITE_IS_ZERO, 12, ("I;16", "I;12")),
    (b"MM", BLACK_IS_ZERO, 12, ("I;16", "I;12")),
):
    TiffImagePlugin.OPEN_INFO.setdefault((_prefix, _photometric, (1,), 1, (_bits,), ()), _modes)


@dataclass(frozen=True)
class TiffFacts:
    """What a file states of its first page.

    Args:
        notes: What is left out.
    """

    tags: Tags
    notes: tuple[str, ...]

    @property
    def bits(self) -> int:
        """Of a sample."""
        return int(_one(self.tags, BITS, 1))

    @property
    def states_range(self) -> bool:
        """Whether black and white are other values than those that the bits allow."""
        return _range(self.tags, self.bits) != (0, 2**self.bits - 1)


def read_facts(data: bytes) -> TiffFacts | None:
    """What a TIFF states; None of another file.

    Raises:
        ImageUnreadable: Its samples are of a kind that is not read.
    """
    if data[:4] not in MAGIC:
        return None
    if data.startswith(CANON_RAW, 8):
        raise ImageUnreadable(f"a TIFF with {RAW_DATA} (Canon CR2) is not read")
    pages = list(islice(directories(data), 1))
    if not pages:
        raise ImageUnreadable("the image is damaged: the TIFF has no directory that can be read")
    (tags,) = pages
    if reason := refusal(tags):
        raise ImageUnreadable(f"a TIFF with {reason} is not read")
    check_blocks(tags)
    others = sum(1 for page in islice(directories(data), 1, None) if not _is_reduced(page))
    return TiffFacts(tags, tuple(_left_out(tags, others)))


def refusal(tags: Tags) -> str | None:
    """What of the samples is not read, in words; None where they are."""
    if DNG_VERSION in tags:
        return f"{RAW_DATA} (DNG)"
    photometric = int(_one(tags, PHOTOMETRIC, 0))
    if photometric not in COLOURS:
        return f"{NAMES.get(photometric, f'samples of the photometric interpretation {photometric}')} pixels"
    if _one(tags, COMPRESSION, RAW) == OLD_JPEG:
        return _wrong_format(tags)
    return (
        _wrong_format(tags)
        or _wrong_depth(tags, photometric)
        or _wrong_samples(tags, photometric)
        or _wrong_colours(tags, photometric)
        or _wrong_range(tags, photometric)
    )


def adjusted(image: Image.Image, facts: TiffFacts) -> Image.Image:
    """A loaded first page, its gray in 8 bits by the range that the file states."""
    tags, photometric = facts.tags, int(_one(facts.tags, PHOTOMETRIC, 0))
    colours = tags.get(COLOUR_MAP, ())
    if image.mode == "P" and colours and 0 < max(colours) < 256:
        return _with_8_bit_palette(image, [int(value) for value in colours])
    if photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO}:
        return image
    bits = int(_one(tags, BITS, 1))
    low, high = _range(tags, bits)
    if image.mode.startswith("I;16"):
        gray = scaled_gray(image, low, high)
        return ImageOps.invert(gray) if photometric == WHITE_IS_ZERO else gray
    if image.mode == "L" and _unused_bit(high, bits):
        return _stretched(image, (low, high), bits, is_inverted=photometric == WHITE_IS_ZERO)
    return image


def _wrong_format(tags: Tags) -> str | None:
    kinds = {int(kind) for kind in tags.get(SAMPLE_FORMAT, ())} - {1}
    if not kinds:
        return None
    samples = f"{FORMATS.get(min(kinds), 'unknown')} {int(_one(tags, BITS, 1))}-bit samples"
    return samples if SAMPLE_HIGHEST in tags else f"{samples}, which have no stated range,"


def _wrong_depth(tags: Tags, photometric: int) -> str | None:
    bits, order = {int(value) for value in tags.get(BITS, (1,))}, _one(tags, FILL_ORDER, 1)
    if len(bits) > 1 or not bits <= DEPTHS[photometric]:
        return f"{NAMES[photometric]} samples of {', '.join(map(str, sorted(bits)))} bits"
    # Pillow unpacks neither of them; libtiff has turned the bits of what is compressed.
    inverted = photometric == WHITE_IS_ZERO and _one(tags, COMPRESSION, RAW) == RAW
    if order != 1 and (max(bits) > 8 or (max(bits) == 8 and inverted)):
        return f"{NAMES[photometric]} samples of {max(bits)} bits in reversed order of bits (FillOrder {order})"
    return None


def _wrong_samples(tags: Tags, photometric: int) -> str | None:
    samples, extra = int(_one(tags, SAMPLES, COLOURS[photometric])), _extra(tags)
    if samples != COLOURS[photometric] + len(extra):
        return f"{samples} samples for each {NAMES[photometric]} pixel, {len(extra)} of them stated as extra samples,"
    if not set(extra) <= {0, MULTIPLIED, STRAIGHT} or any(extra[1:]):
        return f"extra samples of the kinds {', '.join(map(str, extra))}"
    if extra and not _is_listed(photometric, int(_one(tags, BITS, 1)), extra):
        return f"{samples} samples of {int(_one(tags, BITS, 1))} bits for each {NAMES[photometric]} pixel"
    if _one(tags, PLANAR, 1) != 1 and samples > 1 and not _planes_are_read(tags, photometric, extra):
        return f"{samples} separate planes of {int(_one(tags, BITS, 1))} bits of {NAMES[photometric]} and extra samples"
    return None


def _planes_are_read(tags: Tags, photometric: int, extra: tuple[int, ...]) -> bool:
    """Found by trying all; Pillow gives wrong pictures of others."""
    if photometric not in {RGB, INKS, YCBCR}:
        return False
    if _one(tags, COMPRESSION, RAW) != RAW:
        return len(extra) <= 1
    return _one(tags, BITS, 1) == 8 and (not extra or (photometric == RGB and extra == (STRAIGHT,)))


def _is_listed(photometric: int, bits: int, extra: tuple[int, ...]) -> bool:
    depth = (bits,) * (COLOURS[photometric] + len(extra))
    return (b"II", photometric, (1,), 1, depth, extra) in TiffImagePlugin.OPEN_INFO


def _wrong_colours(tags: Tags, photometric: int) -> str | None:
    if photometric == INKS and (_one(tags, INK_SET, 1) != 1 or _dots_are_unusual(tags)):
        return "inks that are not CMYK, or a range of dots that is not the whole"
    if photometric != YCBCR or _one(tags, COMPRESSION, RAW) != RAW:
        return None
    if tags.get(SUBSAMPLING, (2, 2)) != (1, 1) or _one(tags, PLANAR, 1) != 1:
        return "uncompressed YCbCr pixels whose colours have fewer samples"
    if COEFFICIENTS in tags or REFERENCE in tags:
        return "uncompressed YCbCr pixels of stated coefficients or reference values"
    return None


def _dots_are_unusual(tags: Tags) -> bool:
    dots, most = tags.get(DOT_RANGE, ()), 2 ** int(_one(tags, BITS, 8)) - 1
    return any(value != expected for value, expected in zip(dots, (0, most) * len(dots), strict=False))


def _wrong_range(tags: Tags, photometric: int) -> str | None:
    bits = int(_one(tags, BITS, 1))
    low, high = _range(tags, bits)
    if not _unused_bit(high, bits):
        return None
    if photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO}:
        return None if high > low and not _extra(tags) else f"values that are stated to lie from {low:g} to {high:g}"
    if photometric == PALETTE:
        return None
    return f"{NAMES[photometric]} samples of {bits} bits that are stated to reach {high:g} only"


def _range(tags: Tags, bits: int) -> tuple[Number, Number]:
    """Which values are black and white, where the highest bit is stated to be unused; else all that bits allow."""
    low, high = _one(tags, SAMPLE_LOWEST, _one(tags, LOWEST, 0)), _one(tags, SAMPLE_HIGHEST, _one(tags, HIGHEST, -1))
    return (low, high) if _unused_bit(high, bits) else (0, 2**bits - 1)


def _unused_bit(high: Number, bits: int) -> bool:
    return 0 <= high < 2 ** (bits - 1) and bits > 1


def _is_reduced(page: Tags) -> bool:
    """Whether a page is a smaller version of another, as pyramids and thumbnails are."""
    return bool(int(_one(page, SUBFILE, 0)) & REDUCED_VERSION) or _one(page, OLD_SUBFILE, 0) == OLD_REDUCED


def _left_out(tags: Tags, others: int) -> list[str]:
    notes, extra = [], _extra(tags)
    if others:
        notes.append(f"page 1 of {1 + others} was read; the other pages are left out")
    if _is_reduced(tags):
        notes.append("the first page, which was read, is stated to be a reduced version of another picture")
    if unknown := [kind for kind in extra if kind == 0]:
        notes.append(f"{len(unknown)} extra samples of each pixel, whose meaning is not stated, are left out")
    low, high = _range(tags, int(_one(tags, BITS, 1)))
    if high != 2 ** int(_one(tags, BITS, 1)) - 1:
        notes.append(f"the values were read by the range that the file states, {low:g} to {high:g}")
    return notes


def _with_8_bit_palette(image: Image.Image, colours: list[int]) -> Image.Image:
    """Some writers store a palette of 8 bits where TIFF has 16; libtiff's own tools take it so as well."""
    size = len(colours) // 3
    image.putpalette([colours[channel * size + entry] for entry in range(size) for channel in range(3)])
    return image


def _stretched(image: Image.Image, limits: tuple[Number, Number], bits: int, *, is_inverted: bool) -> Image.Image:
    """Gray of up to 8 bits, which Pillow has spread over 0 to 255 and turned so that black is zero."""
    (low, high), step = limits, 255 // ((1 << bits) - 1)

    def shown(value: int) -> int:
        stored = ((255 - value) if is_inverted else value) / step
        seen = min(max((stored - low) / (high - low), 0.0), 1.0)
        return round(255 * ((1 - seen) if is_inverted else seen))

    return image.point([shown(value) for value in range(256)])


def _one(tags: Tags, tag: int, absent: Number) -> Number:
    values = tags.get(tag, ())
    return values[0] if values else absent


def _extra(tags: Tags) -> tuple[int, ...]:
    return tuple(int(value) for value in tags.get(EXTRA_SAMPLES, ()))
