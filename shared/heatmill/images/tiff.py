"""What the samples of a TIFF mean, by what the file states; what Pillow would read otherwise is refused by name.

TIFF 6.0 fixes a range for unsigned integers: 0 to 2**bits - 1, from black to white or from white to black. Signed and
floating-point samples have none, and are refused. 16 bits whose MaxSampleValue or SMaxSampleValue leaves the highest
one unused, as 12 bits in 16 do, are read by the range that the file states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image, ImageOps, TiffImagePlugin

from heatmill.errors import ImageUnreadable
from heatmill.images.gray import scaled_gray
from heatmill.images.tiff_damage import check_blocks
from heatmill.images.tiff_range import displayed_white, stated_white, untaken_white, wrong_range
from heatmill.images.tiff_tags import (
    BITS,
    COEFFICIENTS,
    COLOUR_MAP,
    COMPRESSION,
    DNG_VERSION,
    DOT_RANGE,
    EXTRA_SAMPLES,
    FILL_ORDER,
    IMAGE_DEPTH,
    INK_SET,
    MAGIC,
    OLD_SUBFILE,
    PHOTOMETRIC,
    PLANAR,
    REFERENCE,
    SAMPLE_FORMAT,
    SAMPLE_HIGHEST,
    SAMPLES,
    SUBFILE,
    SUBSAMPLING,
    Number,
    Tags,
    directories,
    one,
)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3, LAB: 3}
GRAY = frozenset({WHITE_IS_ZERO, BLACK_IS_ZERO})
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
BIG_ENDIAN_BIG = b"MM\0+"
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
        return int(one(self.tags, BITS, 1))

    @property
    def states_range(self) -> bool:
        """Whether white is another value than the largest that the bits allow."""
        return stated_white(self.tags) is not None


def read_facts(data: bytes) -> TiffFacts | None:
    """What a TIFF states; None of another file.

    Raises:
        ImageUnreadable: Its samples are of a kind that is not read.
    """
    if data.startswith(BIG_ENDIAN_BIG):
        raise ImageUnreadable("a BigTIFF in big-endian byte order is not read")
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
    if one(tags, IMAGE_DEPTH, 1) != 1:
        return f"a volume of {one(tags, IMAGE_DEPTH, 1):g} slices (ImageDepth)"
    if not tags.get(PHOTOMETRIC):
        return "no PhotometricInterpretation, which says what black and white or the colours are,"
    photometric = int(one(tags, PHOTOMETRIC, 0))
    if photometric not in COLOURS:
        return f"{NAMES.get(photometric, f'samples of the photometric interpretation {photometric}')} pixels"
    if one(tags, COMPRESSION, RAW) == OLD_JPEG:
        return _wrong_format(tags)
    return (
        _wrong_format(tags)
        or _wrong_depth(tags, photometric)
        or _wrong_samples(tags, photometric)
        or _wrong_colours(tags, photometric)
        or wrong_range(tags, NAMES[photometric], is_gray=photometric in GRAY)
    )


def adjusted(image: Image.Image, facts: TiffFacts) -> Image.Image:
    """A loaded first page, its gray in 8 bits by the range that the file states."""
    tags, photometric = facts.tags, int(one(facts.tags, PHOTOMETRIC, 0))
    colours = tags.get(COLOUR_MAP, ())
    if image.mode == "P" and colours and 0 < max(colours) < 256:
        return _with_8_bit_palette(image, [int(value) for value in colours])
    if photometric not in GRAY:
        return image
    if image.mode.startswith("I;16"):
        gray = scaled_gray(image, displayed_white(image, tags))
        return ImageOps.invert(gray) if photometric == WHITE_IS_ZERO else gray
    return image


def _wrong_format(tags: Tags) -> str | None:
    kinds = {int(kind) for kind in tags.get(SAMPLE_FORMAT, ())} - {1}
    if not kinds:
        return None
    samples = f"{FORMATS.get(min(kinds), 'unknown')} {int(one(tags, BITS, 1))}-bit samples"
    return samples if SAMPLE_HIGHEST in tags else f"{samples}, which have no stated range,"


def _wrong_depth(tags: Tags, photometric: int) -> str | None:
    bits, order = {int(value) for value in tags.get(BITS, (1,))}, one(tags, FILL_ORDER, 1)
    if len(bits) > 1 or not bits <= DEPTHS[photometric]:
        return f"{NAMES[photometric]} samples of {', '.join(map(str, sorted(bits)))} bits"
    # Pillow unpacks neither of them; libtiff has turned the bits of what is compressed.
    inverted = photometric == WHITE_IS_ZERO and one(tags, COMPRESSION, RAW) == RAW
    if order != 1 and (max(bits) > 8 or (max(bits) == 8 and inverted)):
        return f"{NAMES[photometric]} samples of {max(bits)} bits in reversed order of bits (FillOrder {order})"
    return None


def _wrong_samples(tags: Tags, photometric: int) -> str | None:
    samples, extra = int(one(tags, SAMPLES, COLOURS[photometric])), _extra(tags)
    if samples != COLOURS[photometric] + len(extra):
        return f"{samples} samples for each {NAMES[photometric]} pixel, {len(extra)} of them stated as extra samples,"
    if not set(extra) <= {0, MULTIPLIED, STRAIGHT} or any(extra[1:]):
        return f"extra samples of the kinds {', '.join(map(str, extra))}"
    if extra and not _is_listed(photometric, int(one(tags, BITS, 1)), extra):
        return f"{samples} samples of {int(one(tags, BITS, 1))} bits for each {NAMES[photometric]} pixel"
    if one(tags, PLANAR, 1) != 1 and samples > 1 and not _planes_are_read(tags, photometric, extra):
        kinds = f"{NAMES[photometric]}{' and extra samples' if extra else ''}"
        return f"{samples} separate planes of {int(one(tags, BITS, 1))} bits of {kinds}"
    return None


def _planes_are_read(tags: Tags, photometric: int, extra: tuple[int, ...]) -> bool:
    """Found by trying all; Pillow gives wrong pictures of others."""
    if photometric not in {RGB, INKS, YCBCR}:
        return False
    if one(tags, COMPRESSION, RAW) != RAW:
        return len(extra) <= 1
    return one(tags, BITS, 1) == 8 and (not extra or (photometric == RGB and extra == (STRAIGHT,)))


def _is_listed(photometric: int, bits: int, extra: tuple[int, ...]) -> bool:
    depth = (bits,) * (COLOURS[photometric] + len(extra))
    return (b"II", photometric, (1,), 1, depth, extra) in TiffImagePlugin.OPEN_INFO


def _wrong_colours(tags: Tags, photometric: int) -> str | None:
    if photometric == INKS and (one(tags, INK_SET, 1) != 1 or _dots_are_unusual(tags)):
        return "inks that are not CMYK, or a range of dots that is not the whole"
    if photometric == RGB and not _is_whole(tags.get(REFERENCE, ()), 2 ** int(one(tags, BITS, 8)) - 1):
        return "RGB samples whose ReferenceBlackWhite is not the whole range"
    if photometric != YCBCR or one(tags, COMPRESSION, RAW) != RAW:
        return None
    if tags.get(SUBSAMPLING, (2, 2)) != (1, 1) or one(tags, PLANAR, 1) != 1:
        return "uncompressed YCbCr pixels whose colours have fewer samples"
    if COEFFICIENTS in tags or REFERENCE in tags:
        return "uncompressed YCbCr pixels of stated coefficients or reference values"
    return None


def _dots_are_unusual(tags: Tags) -> bool:
    return not _is_whole(tags.get(DOT_RANGE, ()), 2 ** int(one(tags, BITS, 8)) - 1)


def _is_whole(pairs: Sequence[Number], most: int) -> bool:
    """Whether each pair of numbers is the whole range."""
    return all(value == expected for value, expected in zip(pairs, (0, most) * len(pairs), strict=False))


def _is_reduced(page: Tags) -> bool:
    """Whether a page is a smaller version of another, as pyramids and thumbnails are."""
    return bool(int(one(page, SUBFILE, 0)) & REDUCED_VERSION) or one(page, OLD_SUBFILE, 0) == OLD_REDUCED


def _left_out(tags: Tags, others: int) -> list[str]:
    notes, extra = [], _extra(tags)
    if others:
        notes.append(f"page 1 of {1 + others} was read; the other pages are left out")
    if _is_reduced(tags):
        notes.append("the first page, which was read, is stated to be a reduced version of another picture")
    if unknown := [kind for kind in extra if kind == 0]:
        notes.append(f"{len(unknown)} extra samples of each pixel, whose meaning is not stated, are left out")
    if one(tags, PHOTOMETRIC, 0) != PALETTE and (note := untaken_white(tags)):
        notes.append(note)
    if (white := stated_white(tags)) is not None:
        notes.append(f"the values were read by the range that the file states, 0 to {white:g}")
    return notes


def _with_8_bit_palette(image: Image.Image, colours: list[int]) -> Image.Image:
    """Some writers store a palette of 8 bits where TIFF has 16; libtiff's own tools take it so as well."""
    size = len(colours) // 3
    image.putpalette([colours[channel * size + entry] for entry in range(size) for channel in range(3)])
    return image


def _extra(tags: Tags) -> tuple[int, ...]:
    return tuple(int(value) for value in tags.get(EXTRA_SAMPLES, ()))
