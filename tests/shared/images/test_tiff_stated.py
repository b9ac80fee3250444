"""What a TIFF states that is false, incomplete or about something else is refused by name, or changes nothing."""

import zlib

import numpy as np
import pytest
from PIL import Image

from heatmill.errors import ImageUnreadable
from tests.shared.images.pictures import HEIGHT, difference, gray, packed, read, scene, tiff

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS, FILE_REFERENCE = 258, 259, 262, 277, 278, 532
LOWEST, HIGHEST, SAMPLE_LOWEST, SAMPLE_HIGHEST, DEPTH = 280, 281, 340, 341, 32997
TILE_WIDTH, TILE_HEIGHT = 322, 323
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
RAW, DEFLATE = 1, 8
EXACT = 0.51
PLAIN = {BITS: [8], PHOTOMETRIC: [BLACK_IS_ZERO]}
TILE = 48
TILED = {**PLAIN, TILE_WIDTH: [TILE], TILE_HEIGHT: [TILE]}
GRAY8 = (gray() >> 8).astype(np.uint8)


def strips(count: int, height: int = HEIGHT) -> list[bytes]:
    rows = height // count
    return [GRAY8[top : top + rows].tobytes() for top in range(0, height, rows)]


def tiles() -> list[bytes]:
    """Two rows of two whole tiles, of which the lower ones reach below the picture."""
    padded = np.pad(GRAY8, ((0, -HEIGHT % TILE), (0, 0)))
    return [
        padded[top : top + TILE, left : left + TILE].tobytes() for top in (0, TILE) for left in range(0, 2 * TILE, TILE)
    ]


def test_a_header_that_only_pillow_knows_is_refused_by_its_bytes() -> None:
    for order, mark in (("<", b"II\0*"), (">", b"MM*\0")):
        data = tiff(
            [(65535 - gray()).astype(f"{order}u2").tobytes()], {BITS: [16], PHOTOMETRIC: [WHITE_IS_ZERO]}, order
        )
        with pytest.raises(ImageUnreadable, match=r"a TIFF that begins with b'(II|MM)"):
            read(mark + data[4:])


def test_a_bigtiff_of_the_other_byte_order_is_refused_by_name() -> None:
    with pytest.raises(ImageUnreadable, match="a BigTIFF in big-endian byte order"):
        read(b"MM\0+\0\x08\0\0" + bytes(64))


def test_a_volume_is_refused_by_its_slices() -> None:
    for blocks in ([GRAY8.tobytes() * 3], [GRAY8.tobytes()] * 3):
        with pytest.raises(ImageUnreadable, match="a volume of 3 slices"):
            read(tiff(blocks, {**PLAIN, DEPTH: [3]}))
    assert read(tiff([GRAY8.tobytes()], {**PLAIN, DEPTH: [1]})).notes == ()


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
def test_more_strips_than_there_are_rows_are_refused(compression: int) -> None:
    blocks = [*strips(2), bytes(len(GRAY8.tobytes()) // 2)]
    stored = [zlib.compress(block) for block in blocks] if compression == DEFLATE else blocks
    with pytest.raises(ImageUnreadable, match="3 blocks of pixels, where its size needs 2"):
        read(tiff(stored, {**PLAIN, COMPRESSION: [compression], ROWS: [HEIGHT // 2]}))


def test_a_last_strip_of_fewer_rows_is_whole() -> None:
    blocks = [GRAY8[:40].tobytes(), GRAY8[40:].tobytes()]

    assert difference(read(tiff(blocks, {**PLAIN, ROWS: [40]})), Image.fromarray(GRAY8)) == 0


def test_an_uncompressed_strip_that_is_too_short_for_its_rows_is_damage() -> None:
    blocks = strips(2)
    blocks[0] = blocks[0][:-100]
    with pytest.raises(ImageUnreadable, match="damaged: 2,972 of the 3,072 bytes of a block"):
        read(tiff(blocks, {**PLAIN, ROWS: [HEIGHT // 2]}))


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
def test_tiles_are_read_whole_and_are_damage_where_one_is_missing(compression: int) -> None:
    tags = {**TILED, COMPRESSION: [compression]}
    blocks = [zlib.compress(block) for block in tiles()] if compression == DEFLATE else tiles()

    assert difference(read(tiff(blocks, tags)), Image.fromarray(GRAY8)) == 0
    with pytest.raises(ImageUnreadable, match="1 of its 4 blocks of pixels are missing"):
        read(tiff(blocks[:3], tags))


def test_an_uncompressed_tile_that_is_too_short_is_damage_also_below_the_picture() -> None:
    *others, last = tiles()
    with pytest.raises(ImageUnreadable, match="damaged: 2,204 of the 2,304 bytes of a block"):
        read(tiff([*others, last[:-100]], TILED))


def test_a_damaged_tile_that_gives_enough_bytes_is_told() -> None:
    *others, last = tiles()
    # libtiff stops before the checksum where it has all bytes that it needs.
    longer = zlib.compress(last + bytes(100))
    broken = longer[:-1] + bytes([longer[-1] ^ 1])

    (note,) = read(tiff([*map(zlib.compress, others), broken], {**TILED, COMPRESSION: [DEFLATE]})).notes

    assert "incorrect data check" in note


@pytest.mark.parametrize("samples", [1, 3])
def test_a_file_that_does_not_say_what_its_samples_are_is_refused(samples: int) -> None:
    values = GRAY8 if samples == 1 else np.asarray(scene())
    with pytest.raises(ImageUnreadable, match="no PhotometricInterpretation") as refused:
        read(tiff([values.tobytes()], {BITS: [8] * samples, SAMPLES: [samples]}))
    assert "zero" not in str(refused.value)


@pytest.mark.parametrize(("lowest", "highest"), [(LOWEST, HIGHEST), (SAMPLE_LOWEST, SAMPLE_HIGHEST)])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_least_and_the_largest_value_of_a_dark_picture_are_no_range(
    bits: int, photometric: int, lowest: int, highest: int
) -> None:
    most = 2**bits - 1
    stored = (GRAY8.astype(float) / 255 * most / 2.5).round().astype(np.uint8)
    shown = np.round((most - stored if photometric == WHITE_IS_ZERO else stored) * (255 / most)).astype(np.uint8)
    tags = {BITS: [bits], PHOTOMETRIC: [photometric], lowest: [1], highest: [int(stored.max())]}

    photo = read(tiff([packed(stored, bits)], tags))

    assert difference(photo, Image.fromarray(shown)) < EXACT
    assert photo.notes == (f"the file states values up to {stored.max()} of {most}; they were not taken for white",)


def test_colours_that_state_their_largest_value_are_read() -> None:
    dark = np.asarray(scene()) // 3

    photo = read(tiff([dark.tobytes()], {BITS: [8] * 3, PHOTOMETRIC: [RGB], SAMPLES: [3], HIGHEST: [85] * 3}))

    assert difference(photo, Image.fromarray(dark)) == 0


def test_the_least_of_sixteen_bits_is_not_black() -> None:
    tags = {BITS: [16], PHOTOMETRIC: [BLACK_IS_ZERO], LOWEST: [500], HIGHEST: [4095]}

    photo = read(tiff([(gray() >> 4).astype("<u2").tobytes()], tags))

    assert difference(photo, scene().convert("L")) < EXACT
    assert photo.notes == ("the values were read by the range that the file states, 0 to 4095",)


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_values_above_the_stated_largest_are_refused(photometric: int) -> None:
    tags = {BITS: [16], PHOTOMETRIC: [photometric], HIGHEST: [4095]}
    with pytest.raises(ImageUnreadable, match=f"reach {gray().max()}, above the 4095 that it states"):
        read(tiff([gray().astype("<u2").tobytes()], tags))


def test_colours_with_another_black_and_white_are_refused() -> None:
    content, plain = np.asarray(scene()).tobytes(), {BITS: [8] * 3, PHOTOMETRIC: [RGB], SAMPLES: [3]}
    with pytest.raises(ImageUnreadable, match="ReferenceBlackWhite is not the whole range"):
        read(tiff([content], {**plain, FILE_REFERENCE: [16, 235] * 3}))
    assert difference(read(tiff([content], {**plain, FILE_REFERENCE: [0, 255] * 3})), scene()) == 0
