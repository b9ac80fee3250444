"""What a file states in a wrong place, or in a way that cannot be applied, is told and changes nothing."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.shared.images.pictures import HEIGHT, WIDTH, png, png_chunk, png_header, read, tiff

GRAY, RGB, PALETTE = 0, 2, 3
PIXELS = np.arange(75, dtype=np.uint8).reshape(5, 5, 3) * 3
PROFILE = b"icc\0\0" + zlib.compress(b"no profile")
COLOURS = {
    b"gAMA": struct.pack(">I", 100_000),
    b"iCCP": PROFILE,
    b"sRGB": b"\0",
    b"cICP": bytes([9, 16, 0, 1]),
    b"cHRM": struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600),
    b"tRNS": struct.pack(">3H", *(int(value) for value in PIXELS[0, 0])),
}


def behind(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks behind its pixels."""
    end = png_chunk(b"IEND", b"")
    return data.removesuffix(end) + b"".join(png_chunk(*chunk) for chunk in chunks) + end


@pytest.mark.parametrize("name", COLOURS)
def test_a_chunk_behind_the_pixels_is_told_and_ignored(name: bytes) -> None:
    plain = png(PIXELS, 8, RGB)

    photo = read(behind(plain, (name, COLOURS[name])))

    assert np.array_equal(np.asarray(photo.image), np.asarray(read(plain).image))
    assert len(photo.notes) == 1
    assert name.decode() in photo.notes[0]
    assert "ignored" in photo.notes[0]


@pytest.mark.parametrize("name", sorted(set(COLOURS) - {b"tRNS"}))
def test_a_colour_chunk_behind_the_palette_is_told_and_ignored(name: bytes) -> None:
    values, palette = np.arange(25, dtype=np.uint8).reshape(5, 5) % 4, (b"PLTE", bytes(range(12)))
    plain = png(values, 8, PALETTE, palette)

    photo = read(png(values, 8, PALETTE, palette, (name, COLOURS[name])))

    assert np.array_equal(np.asarray(photo.image), np.asarray(read(plain).image))
    assert any(name.decode() in note and "ignored" in note for note in photo.notes)


def test_transparency_before_the_palette_is_told_and_ignored() -> None:
    values, palette = np.arange(25, dtype=np.uint8).reshape(5, 5) % 4, (b"PLTE", bytes(range(12)))

    photo = read(png(values, 8, PALETTE, (b"tRNS", b"\0"), palette))

    assert np.array_equal(np.asarray(photo.image), np.asarray(read(png(values, 8, PALETTE, palette)).image))
    assert any("tRNS" in note for note in photo.notes)


def test_of_two_chunks_of_one_name_the_first_counts_and_the_second_is_told() -> None:
    first, second = (b"tRNS", COLOURS[b"tRNS"]), (b"tRNS", struct.pack(">3H", *(int(v) for v in PIXELS[1, 1])))

    photo = read(png(PIXELS, 8, RGB, first, second))

    assert np.array_equal(np.asarray(photo.image), np.asarray(read(png(PIXELS, 8, RGB, first)).image))
    assert any("tRNS" in note and "ignored" in note for note in photo.notes)


def test_chunks_in_their_places_are_not_told() -> None:
    photo = read(png(PIXELS, 8, RGB, (b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0")))

    assert photo.notes == ()


def test_a_png_with_a_critical_chunk_that_nobody_knows_is_told() -> None:
    photo = read(png(PIXELS, 8, RGB, (b"QQQQ", b"?")))

    assert any("QQQQ" in note for note in photo.notes)
    assert read(png(PIXELS, 8, RGB, (b"qqQq", b"?"))).notes == ()


@pytest.mark.parametrize("cut", [1, 4])
def test_a_png_whose_pixels_lack_their_checksum_is_told(cut: int) -> None:
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))[:-cut]
    data = png_header(5, 5, 8, RGB) + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")

    photo = read(data)

    assert np.array_equal(np.asarray(photo.image), PIXELS)
    assert len(photo.notes) == 1
    assert "checksum" in photo.notes[0]


def test_a_deflated_tiff_whose_bits_are_in_the_other_order_is_sound() -> None:
    values = (np.arange(HEIGHT * WIDTH) % 251).astype(np.uint8).reshape(HEIGHT, WIDTH)
    swapped = bytes(int(f"{number:08b}"[::-1], 2) for number in range(256))
    block = zlib.compress(values.tobytes())
    tags = {258: [8], 259: [8], 262: [1]}
    plain, turned = tiff([block], tags), tiff([block.translate(swapped)], {**tags, 266: [2]})

    assert read(turned).notes == read(plain).notes == ()
    assert np.array_equal(np.asarray(read(turned).image), np.asarray(read(plain).image))


def bmp(kind: bytes, size: int, endpoints: bytes = bytes(48)) -> bytes:
    """A BMP of version 4 or 5, whose header says which colours it means."""
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "BMP")
    plain = file.getvalue()
    header = plain[18:54].ljust(52, b"\0") + kind + endpoints
    header = struct.pack("<I", size) + header.ljust(size - 4, b"\0")
    pixels = plain[54:]
    return b"BM" + struct.pack("<IHHI", 14 + size + len(pixels), 0, 0, 14 + size) + header + pixels


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp(bytes(4), 108, struct.pack("<12I", *range(1, 13))), "end points and gamma"),
        (bmp(bytes(4), 124, struct.pack("<12I", *range(1, 13))), "end points and gamma"),
        (bmp(b"KNIL", 124), "linked"),
    ],
)
def test_colours_that_a_bmp_states_and_that_are_not_applied_are_told(data: bytes, words: str) -> None:
    photo = read(data)

    assert np.array_equal(np.asarray(photo.image), PIXELS)
    assert len(photo.notes) == 1
    assert words in photo.notes[0]
    assert "ignored" in photo.notes[0]


@pytest.mark.parametrize("data", [bmp(b"BGRs", 108), bmp(b" niW", 124), bmp(bytes(4), 108)])
def test_a_bmp_that_states_srgb_or_nothing_is_not_told(data: bytes) -> None:
    assert read(data).notes == ()


def test_the_second_of_two_whole_pictures_of_one_file_is_told() -> None:
    pictures = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)) for level in (40, 200)]
    file = BytesIO()
    pictures[0].save(file, "MPO", save_all=True, append_images=pictures[1:])

    assert any("1 of 2" in note for note in read(file.getvalue()).notes)
