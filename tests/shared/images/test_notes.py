"""What of a file is left out or changed is told, and nothing else is."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from heatmill.errors import ImageTooLarge, ImageUnreadable
from heatmill.images import decode_reduced
from tests.shared.images.pictures import (
    HEIGHT,
    LIMITS,
    WIDTH,
    difference,
    encoded,
    gray,
    mask,
    on_white,
    packed,
    png,
    png_chunk,
    png_header,
    read,
    scene,
)


def clear() -> Image.Image:
    image = scene().convert("RGBA")
    image.putalpha(mask())
    return image


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_the_first_frame_is_told_by_number(image_format: str) -> None:
    other = [scene().rotate(180), scene().rotate(90)]
    data = encoded(scene(), image_format, save_all=True, append_images=other, duration=100)

    assert read(data).notes == ("frame 1 of 3 was read; the other frames are left out",)


def test_the_second_picture_of_a_phone_is_not_told() -> None:
    bright = scene().convert("L")
    for image in (bright, bright.reduce(2), scene().reduce(2)):
        data = encoded(scene(), "MPO", save_all=True, append_images=[image])
        assert read(data).notes == ()

    assert read(data).format == "JPEG"


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_told_by_its_share(image_format: str) -> None:
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    photo = read(encoded(clear(), image_format, **options))

    assert difference(photo, on_white(clear())) < 1
    assert photo.notes == ("transparent pixels were laid on white: 99.0% of the photo",)


def test_an_alpha_channel_that_is_opaque_everywhere_is_not_told() -> None:
    assert read(encoded(scene().convert("RGBA"), "PNG")).notes == ()
    assert read(encoded(scene().convert("L").convert("LA"), "PNG")).notes == ()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_gray_value_is_transparent_at_every_depth(bits: int) -> None:
    values = gray() >> (16 - bits)
    absent = int(values[5, 5])
    shown = np.where(values == absent, 255, (values / (2**bits - 1) * 255).round()).astype(np.uint8)

    photo = read(png(values, bits, 0, (b"tRNS", struct.pack(">H", absent))))

    assert difference(photo, Image.fromarray(shown)) < 0.51
    assert "transparent" in photo.notes[0]


@pytest.mark.parametrize("bits", [8, 16])
def test_one_colour_is_transparent_and_its_neighbours_are_not(bits: int) -> None:
    values = np.asarray(scene()).astype(np.uint16) * (257 if bits == 16 else 1)
    values[0, :3] = values[10, 20] ^ np.array([[0], [1], [2]], np.uint16)
    absent = values[10, 20]
    shown = np.where((values == absent).all(axis=2, keepdims=True), 255, values >> (bits - 8)).astype(np.uint8)

    photo = read(png(values, bits, 2, (b"tRNS", struct.pack(">3H", *absent))))

    assert np.array_equal(np.asarray(photo.image), shown)
    assert "transparent" in photo.notes[0]


def test_gray_with_alpha_of_sixteen_bits_is_laid_on_white() -> None:
    alpha = np.asarray(mask()).astype(np.uint16) * 257
    reference = on_white(Image.merge("LA", (scene().convert("L"), mask())))

    assert difference(read(png(np.dstack([gray(), alpha]), 16, 4)), reference) < 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_photo_is_told_with_its_whole_upright_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = scene().resize((1203, 801))
    stored = large.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else large
    data = encoded(stored, "JPEG", exif=exif)

    reduced, whole = decode_reduced(data, LIMITS, 200), decode_reduced(data, LIMITS, None)

    assert reduced.notes == (
        "reduced to 1/4 of 1203 x 801 pixels on each side while it was decoded; the model sees fewer",
    )
    assert (reduced.size, reduced.reduced_by) == ((1203, 801), 4)
    assert (whole.size, whole.reduced_by, whole.notes) == ((1203, 801), 1, ())


def test_the_limit_on_pixels_is_about_what_is_decoded() -> None:
    data = encoded(Image.new("RGB", (12_000, 9_000), "teal"), "JPEG")

    assert decode_reduced(data, LIMITS, 448).image.size == (1500, 1125)
    with pytest.raises(ImageTooLarge, match=r"^12000 x 9000 pixels; the limit is 50 megapixels$"):
        decode_reduced(data, LIMITS, None)


def test_what_is_read_has_a_limit_too() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2

    with pytest.raises(ImageTooLarge, match="30000 x 30000 pixels; the limit of what is read is 400 megapixels"):
        decode_reduced(bytes(data), LIMITS, 448)


def test_a_progressive_jpeg_counts_as_a_whole_since_its_decoder_holds_the_whole() -> None:
    data = encoded(Image.new("L", (12_000, 9_000)), "JPEG", progressive=True)

    with pytest.raises(ImageTooLarge, match="12000 x 9000 pixels, which its scans need at once; the limit is 50"):
        decode_reduced(data, LIMITS, 448)


def test_a_png_whose_pixels_have_a_wrong_checksum_is_damaged() -> None:
    data = bytearray(png(np.asarray(scene()), 8, 2))
    data[len(data) - 12 - 4 - 1] ^= 1

    with pytest.raises(ImageUnreadable, match="damaged: the checksum"):
        read(bytes(data))


def test_a_png_of_too_few_rows_is_damaged() -> None:
    whole, header = png(np.asarray(scene()), 8, 2), png_header(WIDTH, HEIGHT, 8, 2)

    with pytest.raises(ImageUnreadable, match=r"damaged: 18,496 of the 36,992 bytes of its pixels are there"):
        read(png_header(WIDTH, HEIGHT * 2, 8, 2) + whole[len(header) :])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colour_type", "channels"), [(8, 2, 3), (1, 0, 1), (16, 0, 1), (8, 4, 2), (16, 6, 4)])
@pytest.mark.parametrize("size", [(33, 7), (3, 2), (1, 1)])
def test_the_pixels_of_a_black_png_are_counted(
    size: tuple[int, int], bits: int, colour_type: int, channels: int, interlaced: bool
) -> None:
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    pixels, count = np.zeros(size[::-1]), 0
    for x, y, across, down in steps if interlaced else [(0, 0, 1, 1)]:
        rows, columns = pixels[y::down, x::across].shape
        count += rows * (1 + (columns * bits * channels + 7) // 8) if columns else 0
    header = png_header(*size, bits, colour_type, interlaced=interlaced)

    assert read(header + png_chunk(b"IDAT", zlib.compress(bytes(count))) + png_chunk(b"IEND", b"")).size == size
    with pytest.raises(ImageUnreadable, match="damaged"):
        read(header + png_chunk(b"IDAT", zlib.compress(bytes(count - 1))) + png_chunk(b"IEND", b""))


def test_a_png_with_black_rows_at_its_end_is_whole() -> None:
    for mode in ("RGB", "L", "1", "P", "RGBA"):
        assert read(encoded(Image.new(mode, (33, 7)), "PNG")).size == (33, 7)


def test_a_colour_that_the_palette_lacks_is_told() -> None:
    values = np.asarray(scene().convert("L")) // 32

    assert read(png(values, 8, 3, (b"PLTE", bytes(range(24))))).notes == ()
    (note,) = read(png(values, 8, 3, (b"PLTE", bytes(range(9))))).notes
    assert "palette lacks" in note
    with pytest.raises(ImageUnreadable):
        read(png(values, 8, 3))


@pytest.mark.parametrize("scans", [1, 3])
def test_a_progressive_jpeg_whose_last_scans_are_missing_is_told(scans: int) -> None:
    data = encoded(scene(), "JPEG", progressive=True)
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]

    assert read(data).notes == ()
    (note,) = read(data[: starts[scans]] + b"\xff\xd9").notes
    assert "last scans are missing" in note


def test_a_png_without_its_end_is_told() -> None:
    photo = read(png(np.asarray(scene()), 8, 2)[:-12])

    assert difference(photo, scene()) == 0
    assert photo.notes == ("the file is damaged: it ends before its end marker",)


@pytest.mark.parametrize("image_format", ["WEBP", "AVIF"])
def test_a_file_that_is_cut_off_is_unreadable(image_format: str) -> None:
    data = encoded(scene(), image_format)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ImageUnreadable):
            read(data[: int(len(data) * share)])


def test_cmyk_of_which_nobody_says_whether_it_is_inverted_is_told() -> None:
    data = encoded(scene().convert("CMYK"), "JPEG")
    start = data.index(b"Adobe") - 4

    assert read(data).notes == ()
    (note,) = read(data[:start] + data[start + 16 :]).notes
    assert "inverted" in note


@pytest.mark.parametrize(("bits", "components", "word"), [(12, 3, "12 bits a sample"), (8, 2, "2 components a pixel")])
def test_jpegs_of_other_depths_are_refused_by_name(bits: int, components: int, word: str) -> None:
    data = bytearray(encoded(scene(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 4], data[frame + 9] = bits, components

    with pytest.raises(ImageUnreadable, match=word):
        read(bytes(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_zeros_among_a_jpegs_pixels_are_told_also_where_the_decoder_does_not_mind(
    options: dict[str, bool], share: float
) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (HEIGHT * 4, WIDTH * 4, 3))
    grainy = np.asarray(scene().resize((WIDTH * 4, HEIGHT * 4))) + noise
    data = bytearray(encoded(Image.fromarray(grainy.clip(0, 255).astype(np.uint8)), "JPEG", quality=85, **options))
    assert read(bytes(data)).notes == ()
    place = int(len(data) * share)
    data[place : place + 80] = bytes(80)

    assert "damaged" in read(bytes(data)).notes[0]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_blank_jpeg_is_not_taken_for_damaged(mode: str, options: dict[str, bool]) -> None:
    assert read(encoded(Image.new(mode, (2000, 1500)), "JPEG", **options) + bytes(200)).notes == ()


def test_bits_are_packed_as_the_tests_believe() -> None:
    assert packed(np.array([[1, 2, 3]]), 4) == b"\x12\x30"
