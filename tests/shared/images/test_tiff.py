"""TIFFs are read by what they state of their samples, or refused by name."""

import zlib
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pytest
from PIL import Image

from heatmill.errors import ImageUnreadable
from tests.shared.images.pictures import (
    HEIGHT,
    Samples,
    difference,
    encoded,
    gray,
    mask,
    on_white,
    packed,
    png,
    read,
    scene,
    tiff,
)

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS, PLANAR, EXTRA, FORMAT = 258, 259, 262, 277, 278, 284, 338, 339
HIGHEST, SAMPLE_HIGHEST, COLOUR_MAP, SUBSAMPLING, FILL_ORDER = 281, 341, 320, 530, 266
RAW, DEFLATE = 1, 8
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
EXACT = 0.51
Tags = Mapping[int, Sequence[int]]
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def gray_tiff(values: Samples, bits: int, tags: Tags, order: str = "<") -> bytes:
    """One sample a pixel, in two strips."""
    content = values.astype(f"{order}u2").tobytes() if bits == 16 else packed(values, bits)
    middle = len(content) // 2
    blocks = [content[:middle], content[middle:]]
    if tags.get(COMPRESSION) == [DEFLATE]:
        blocks = [zlib.compress(block) for block in blocks]
    if tags.get(FILL_ORDER) == [2]:
        blocks = [block.translate(REVERSED) for block in blocks]
    return tiff(blocks, {BITS: [bits], ROWS: [HEIGHT // 2], **tags}, order)


def colour_tiff(values: Samples, tags: Tags, order: str = "<") -> bytes:
    """Several samples a pixel, one behind the other or in planes."""
    channels = np.asarray(values)
    bits = channels.dtype.itemsize * 8
    stored = channels.astype(f"{order}u{channels.dtype.itemsize}")
    planes = [stored[..., channel].tobytes() for channel in range(stored.shape[2])]
    blocks = planes if tags.get(PLANAR) == [2] else [stored.tobytes()]
    if tags.get(COMPRESSION) == [DEFLATE]:
        blocks = [zlib.compress(block) for block in blocks]
    return tiff(blocks, {BITS: [bits] * stored.shape[2], SAMPLES: [stored.shape[2]], **tags}, order)


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_gray_is_read_by_its_depth_and_by_what_zero_is(bits: int, photometric: int) -> None:
    shown, most = gray() >> (16 - bits), 2**bits - 1
    reference = Image.fromarray((shown / most * 255).round().astype(np.uint8))
    stored = most - shown if photometric == WHITE_IS_ZERO else shown
    for order, compression in product("<>", (RAW, DEFLATE)):
        data = gray_tiff(stored, bits, {PHOTOMETRIC: [photometric], COMPRESSION: [compression]}, order)
        photo = read(data)
        assert difference(photo, reference) < EXACT, (order, compression)
        assert photo.notes == ()


@pytest.mark.parametrize(("photometric", "compression"), [(0, RAW), (0, DEFLATE), (1, RAW), (1, DEFLATE)])
@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_bits_in_reversed_order_are_turned_or_refused(bits: int, photometric: int, compression: int) -> None:
    shown, most = gray() >> (16 - bits), 2**bits - 1
    stored = most - shown if photometric == WHITE_IS_ZERO else shown
    tags = {PHOTOMETRIC: [photometric], COMPRESSION: [compression], FILL_ORDER: [2]}
    data = gray_tiff(stored, bits, tags)
    if bits == 16 or (bits, photometric, compression) == (8, WHITE_IS_ZERO, RAW):
        with pytest.raises(ImageUnreadable, match=f"{bits} bits in reversed order"):
            read(data)
        return
    assert difference(read(data), Image.fromarray((shown / most * 255).round().astype(np.uint8))) < EXACT


@pytest.mark.parametrize("tag", [HIGHEST, SAMPLE_HIGHEST])
@pytest.mark.parametrize(("photometric", "most"), [(1, 4095), (0, 4095), (1, 1023), (1, 4000)])
def test_a_stated_range_that_leaves_bits_unused_is_the_range(tag: int, photometric: int, most: int) -> None:
    shown = (gray() / 65535 * most).round().astype(np.uint16)
    stored = most - shown if photometric == WHITE_IS_ZERO else shown

    photo = read(gray_tiff(stored, 16, {PHOTOMETRIC: [photometric], tag: [most]}))

    assert difference(photo, scene().convert("L")) < EXACT
    assert photo.notes == (f"the values were read by the range that the file states, 0 to {most}",)


def test_a_stated_maximum_that_is_only_that_of_this_picture_changes_nothing() -> None:
    photo = read(gray_tiff(gray(), 16, {PHOTOMETRIC: [BLACK_IS_ZERO], HIGHEST: [60000]}))

    assert difference(photo, scene().convert("L")) < EXACT
    assert photo.notes == ()


def test_twelve_bits_in_sixteen_that_are_not_stated_are_told() -> None:
    (note,) = read(gray_tiff(gray() >> 4, 16, {PHOTOMETRIC: [BLACK_IS_ZERO]})).notes

    assert "of 65535" in note
    assert "hardly any contrast" in note


def test_colours_of_twelve_bits_in_sixteen_that_are_not_stated_are_told() -> None:
    values = np.asarray(scene()).astype(np.uint16) * 16
    for order in "<>":
        (note,) = read(colour_tiff(values, {PHOTOMETRIC: [RGB]}, order)).notes
        assert "hardly any contrast" in note
    (note,) = read(png(values, 16, 2)).notes
    assert "hardly any contrast" in note


@pytest.mark.parametrize("bits", [3, 5, 6, 7, 10, 14, 24, 32, 64])
def test_depths_that_are_not_read_are_refused_by_name(bits: int) -> None:
    with pytest.raises(ImageUnreadable, match=f"gray samples of {bits} bits is not read"):
        read(tiff([packed(gray(), bits)], {BITS: [bits], PHOTOMETRIC: [BLACK_IS_ZERO]}))


@pytest.mark.parametrize(
    ("sample_format", "word"), [(2, "signed"), (3, "floating-point"), (4, "undefined"), (6, "complex")]
)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_samples_without_a_range_are_refused_by_name(bits: int, sample_format: int, word: str) -> None:
    tags = {BITS: [bits], PHOTOMETRIC: [BLACK_IS_ZERO], FORMAT: [sample_format]}
    with pytest.raises(ImageUnreadable, match=f"{word}.* {bits}-bit samples, which have no stated range"):
        read(tiff([packed(gray(), bits)], tags))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_are_read_or_refused_by_name(bits: int, planar: int, compression: int, order: str) -> None:
    """Every layout of colours with every kind of extra samples: the right picture, or a refusal of TIFF's own words."""
    pictures = (scene(), scene().convert("CMYK"), scene().convert("L"), mask())
    rgb, inks, light, alpha = (
        np.asarray(picture).astype(f"u{bits // 8}") * (257 if bits == 16 else 1) for picture in pictures
    )
    clear, lit = scene().convert("RGBA"), Image.merge("LA", (scene().convert("L"), mask()))
    clear.putalpha(mask())
    share = alpha / (2**bits - 1)
    multiplied = (rgb * share[..., None]).round().astype(rgb.dtype), (light * share).round().astype(rgb.dtype)
    ink_reference, inverted = scene().convert("CMYK").convert("RGB"), (2**bits - 1) - light
    # Extra samples are read where one pixel's lie together; planes of 16 bits, and of most kinds, only where libtiff
    # decompresses them.
    together, packed_planes = planar == 1, planar == 2 and compression == DEFLATE
    is_plain, is_eight = together or packed_planes or bits == 8, bits == 8 and together
    cases: list[tuple[Samples, int, list[int], Image.Image, bool]] = [
        (rgb, RGB, [], scene(), is_plain),
        (np.dstack([rgb, alpha]), RGB, [2], on_white(clear), is_plain),
        (np.dstack([multiplied[0], alpha]), RGB, [1], on_white(clear), together or packed_planes),
        (np.dstack([rgb, alpha]), RGB, [0], scene(), together or packed_planes),
        (np.dstack([rgb, alpha, alpha]), RGB, [2, 0], on_white(clear), is_eight),
        (np.dstack([rgb, alpha]), RGB, [], scene(), False),
        (inks, INKS, [], ink_reference, is_plain),
        (np.dstack([inks, alpha]), INKS, [0], ink_reference, bits == 8 and (together or packed_planes)),
        (np.dstack([inks, alpha]), INKS, [2], ink_reference, False),
        (np.dstack([light, alpha]), BLACK_IS_ZERO, [2], on_white(lit), is_eight),
        (np.dstack([multiplied[1], alpha]), BLACK_IS_ZERO, [1], on_white(lit), is_eight),
        (np.dstack([light, alpha]), BLACK_IS_ZERO, [0], scene().convert("L"), is_eight),
        (np.dstack([inverted, alpha]), WHITE_IS_ZERO, [2], on_white(lit), False),
    ]
    for values, photometric, extra, reference, is_read in cases:
        tags = {PHOTOMETRIC: [photometric], PLANAR: [planar], COMPRESSION: [compression]}
        data, case = colour_tiff(values, tags | ({EXTRA: extra} if extra else {}), order), (photometric, extra)
        if not is_read:
            with pytest.raises(ImageUnreadable, match=r"^a TIFF with \d (samples|separate planes)"):
                read(data)
            continue
        photo = read(data)
        assert difference(photo, reference) < 1.5, case
        assert bool(photo.notes) == bool(extra), case


def test_planes_that_are_refused_are_told_with_extra_samples_only_where_they_have_some() -> None:
    values = np.asarray(scene()).astype(np.uint16)
    for extra, words in (([], "3 separate planes of 16 bits of RGB is"), ([0], "4 .* of RGB and extra samples is")):
        stored = np.dstack([values, values[..., :1]]) if extra else values
        with pytest.raises(ImageUnreadable, match=words):
            read(colour_tiff(stored, {PHOTOMETRIC: [RGB], PLANAR: [2]} | ({EXTRA: extra} if extra else {})))


def test_uncompressed_ycbcr_is_read_where_every_pixel_has_its_colour() -> None:
    values = np.asarray(scene().convert("YCbCr"))

    assert difference(read(colour_tiff(values, {PHOTOMETRIC: [YCBCR], SUBSAMPLING: [1, 1]})), scene()) < 2
    with pytest.raises(ImageUnreadable, match="YCbCr pixels whose colours have fewer samples"):
        read(colour_tiff(values, {PHOTOMETRIC: [YCBCR]}))


@pytest.mark.parametrize(("photometric", "name"), [(4, "transparency mask"), (9, "ICCLab"), (32803, "filter array")])
def test_other_colour_spaces_are_refused_by_name(photometric: int, name: str) -> None:
    with pytest.raises(ImageUnreadable, match=name):
        read(colour_tiff(np.asarray(scene()), {PHOTOMETRIC: [photometric]}))


def test_cielab_is_converted() -> None:
    # Light, and a and b as signed bytes: a red.
    values = np.zeros((HEIGHT, 96, 3), np.uint8)
    values[...] = (138, 81, 70)

    photo = read(colour_tiff(values, {PHOTOMETRIC: [LAB]}))

    assert difference(photo, Image.new("RGB", photo.size, (255, 0, 0))) < 5


def test_more_samples_than_colours_are_refused_by_their_number() -> None:
    values = np.dstack([np.asarray(scene()), np.asarray(scene())[..., :2]])
    with pytest.raises(ImageUnreadable, match="5 samples for each gray pixel"):
        read(colour_tiff(values, {PHOTOMETRIC: [BLACK_IS_ZERO]}))


def test_colours_that_are_stated_to_use_few_bits_are_refused() -> None:
    values = np.asarray(scene()).astype(np.uint16) * 16
    with pytest.raises(ImageUnreadable, match="stated to reach 4095 only"):
        read(colour_tiff(values, {PHOTOMETRIC: [RGB], HIGHEST: [4095] * 3}))


@pytest.mark.parametrize("scale", [257, 1])
def test_a_palette_of_sixteen_or_of_eight_bits_is_looked_up(scale: int) -> None:
    few = scene().quantize(16)
    colours = (few.getpalette() or [])[:48]
    table = [value * scale for channel in range(3) for value in colours[channel::3]]

    photo = read(tiff([packed(np.asarray(few), 4)], {BITS: [4], PHOTOMETRIC: [PALETTE], COLOUR_MAP: table}))

    assert difference(photo, few.convert("RGB")) < EXACT


def test_the_first_of_several_pages_is_told_and_smaller_versions_are_not_pages() -> None:
    pages = encoded(scene(), "TIFF", save_all=True, append_images=[scene().rotate(180)] * 2)

    assert read(pages).notes == ("page 1 of 3 was read; the other pages are left out",)
    for tag, value in ((254, 1), (255, 2)):
        small = scene().resize((48, 32))
        small.encoderinfo = {"tiffinfo": {tag: value}}
        assert read(encoded(scene(), "TIFF", save_all=True, append_images=[small])).notes == ()


def test_a_first_page_that_is_a_thumbnail_is_told() -> None:
    (note,) = read(encoded(scene(), "TIFF", tiffinfo={254: 1})).notes

    assert "reduced version of another picture" in note


def test_a_loop_of_pages_ends() -> None:
    data = bytearray(tiff([packed(gray(), 8)], {BITS: [8], PHOTOMETRIC: [BLACK_IS_ZERO]}))
    count = int.from_bytes(data[8:10], "little")
    data[10 + 12 * count : 14 + 12 * count] = (8).to_bytes(4, "little")

    assert read(bytes(data)).notes == ()


def test_a_damaged_deflate_block_that_gives_enough_bytes_is_told() -> None:
    large = scene().resize((480, 320), Image.Resampling.BICUBIC)
    data = bytearray(encoded(large, "TIFF", compression="tiff_adobe_deflate", tiffinfo={ROWS: 320}))
    middle = len(data) // 2
    data[middle : middle + 100] = bytes(100)

    (note,) = read(bytes(data)).notes

    assert "the file is damaged" in note
    assert "incorrect data check" in note


@pytest.mark.parametrize("data", [b"II*\0", b"MM\0*\0\0\0\x08", b"II+\0" + bytes(12), b"II*\0\xff\xff\xff\x7f"])
def test_a_directory_that_is_not_there_is_damage(data: bytes) -> None:
    with pytest.raises(ImageUnreadable, match="damaged"):
        read(data)


def test_a_cameras_raw_file_is_not_taken_for_its_thumbnail() -> None:
    plain = {BITS: [8], PHOTOMETRIC: [BLACK_IS_ZERO]}
    negative = tiff([packed(gray() >> 8, 8)], {**plain, 50706: [1]})
    with pytest.raises(ImageUnreadable, match=r"raw data \(DNG\)"):
        read(negative)
    with pytest.raises(ImageUnreadable, match=r"raw data \(Canon CR2\)"):
        read(b"II*\0\x10\0\0\0CR\2\0" + bytes(8))


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
def test_a_strip_that_is_missing_is_damage(compression: int) -> None:
    data = gray_tiff(gray() >> 8, 8, {PHOTOMETRIC: [BLACK_IS_ZERO], COMPRESSION: [compression]})
    entry = data.index((273).to_bytes(2, "little") + b"\4\0\2\0\0\0") + 8
    second = int.from_bytes(data[entry : entry + 4], "little") + 4
    rows = data.index((278).to_bytes(2, "little") + b"\3\0") + 8

    with pytest.raises(ImageUnreadable, match="1 of its 2 blocks of pixels are missing"):
        read(data[:second] + bytes(4) + data[second + 4 :])
    with pytest.raises(ImageUnreadable, match="2 of its 4 blocks of pixels are missing"):
        read(data[:rows] + (HEIGHT // 4).to_bytes(4, "little") + data[rows + 4 :])
