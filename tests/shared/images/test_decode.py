"""Bytes to photos: formats, colour, orientation, limits, damage."""

import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from heatmill.errors import ImageTooLarge, ImageUnreadable
from heatmill.images import ImageLimits, decode, decode_reduced

LIMITS = ImageLimits(max_bytes=50_000_000, max_pixels=50_000_000)
ORIENTATION = 0x0112
WIDTH, HEIGHT = 48, 32


def photo() -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_a_lossless_format_gives_back_the_pixels(image_format: str) -> None:
    decoded = decode(encoded(photo(), image_format), LIMITS)

    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(photo()))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_a_lossy_format_gives_back_about_the_pixels(image_format: str) -> None:
    decoded = np.asarray(decode(encoded(photo(), image_format, quality=95), LIMITS), dtype=float)

    assert np.abs(decoded - np.asarray(photo())).mean() < 4


def test_the_first_frame_of_a_gif_is_the_photo() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]

    decoded = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), LIMITS)

    assert decoded.getpixel((4, 4)) == (255, 0, 0)


def test_a_phone_photo_with_a_second_picture_inside_is_read() -> None:
    data = encoded(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])

    assert decode(data, LIMITS).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int) -> None:
    upright = photo()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright

    decoded = decode(encoded(stored, "PNG", exif=exif), LIMITS)

    assert np.array_equal(np.asarray(decoded), np.asarray(upright))
    assert decoded.getexif().get(ORIENTATION, 1) == 1


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def with_xmp(image_format: str, **options: object) -> bytes:
    """A file whose XMP says that it is turned."""
    if image_format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        return encoded(photo(), "PNG", pnginfo=text, **options)
    if image_format == "TIFF":
        return encoded(photo(), "TIFF", tiffinfo={700: XMP}, **options)
    return encoded(photo(), image_format, xmp=XMP, **options)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_xmp_turns_nothing(image_format: str) -> None:
    assert Image.open(BytesIO(with_xmp(image_format))).getexif()[ORIENTATION] == 6
    assert decode(with_xmp(image_format), LIMITS).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exifs_own_tag_counts_whatever_xmp_says(image_format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6

    assert decode(with_xmp(image_format, exif=exif), LIMITS).size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiffs_own_tag_turns_it(compression: str) -> None:
    stored = photo().transpose(Image.Transpose.ROTATE_90)
    data = encoded(stored, "TIFF", compression=compression, tiffinfo={ORIENTATION: 6, 700: XMP.replace(b"6", b"3")})

    assert np.array_equal(np.asarray(decode(data, LIMITS)), np.asarray(photo()))


def test_an_avif_is_turned_by_its_container() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6

    assert decode(encoded(photo(), "AVIF", exif=exif), LIMITS).size == (HEIGHT, WIDTH)


# Pillow warns, once a process; only where warnings are errors would it lose the photo.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_lose_the_photo() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x09")

    assert decode(data, LIMITS).size == (WIDTH, HEIGHT)


def test_grayscale_becomes_three_equal_channels() -> None:
    pixels = np.asarray(decode(encoded(photo().convert("L"), "PNG"), LIMITS))

    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert np.array_equal(pixels[..., 0], np.asarray(photo().convert("L")))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(image_format: str) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)

    pixels = np.asarray(decode(encoded(Image.fromarray(values), image_format), LIMITS))

    assert pixels[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_value_of_sixteen_bits_is_rounded_to_the_nearest(order: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = Image.frombytes("I;16" if order == "<" else "I;16B", (256, 256), values.astype(f"{order}u2").tobytes())

    pixels = np.asarray(decode(encoded(image, "TIFF"), LIMITS))[..., 1]

    assert np.array_equal(pixels, (values.astype(np.uint32) + 128) // 257)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ImageUnreadable, match="no stated range"):
        decode(encoded(Image.new(mode, (8, 8)), "TIFF"), LIMITS)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))

    decoded = decode(encoded(image.convert(mode), "PNG"), LIMITS)

    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)

    decoded = decode(encoded(image, "PNG", transparency=1), LIMITS)

    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_a_transparent_value_of_sixteen_bits_is_white_and_its_neighbours_are_not() -> None:
    image = Image.fromarray(np.array([[0, 257, 258]], dtype=np.uint16))

    decoded = decode(encoded(image, "PNG", transparency=257), LIMITS)

    assert [decoded.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (255, 255, 255), (1, 1, 1)]


def test_cmyk_is_converted_plainly() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))

    assert decode(encoded(cmyk, "TIFF"), LIMITS).getpixel((4, 4)) == (255, 0, 0)


def test_bilevel_is_black_and_white() -> None:
    assert decode(encoded(Image.new("1", (8, 8), 1), "TIFF"), LIMITS).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.7", b"\xff\xd8\xff"])
def test_what_is_no_image_is_unreadable(data: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        decode(data, LIMITS)


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "TGA", "PCX"])
def test_other_formats_are_refused(image_format: str) -> None:
    with pytest.raises(ImageUnreadable, match="JPEG, PNG, WEBP, BMP, TIFF, GIF"):
        decode(encoded(photo(), image_format), LIMITS)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_truncated_file_is_unreadable(image_format: str) -> None:
    data = encoded(photo(), image_format)

    with pytest.raises(ImageUnreadable):
        decode(data[: len(data) // 2], LIMITS)


def test_an_image_of_no_pixels_is_unreadable() -> None:
    data = bytearray(encoded(photo(), "BMP"))
    data[18:22] = bytes(4)

    with pytest.raises(ImageUnreadable):
        decode(bytes(data), LIMITS)


def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = (12_000).to_bytes(4, "big") + (9_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")

    with pytest.raises(ImageTooLarge, match=r"^12000 x 9000 pixels; the limit is 50 megapixels$"):
        decode(bytes(data), LIMITS)


def test_more_bytes_than_the_limit_are_refused() -> None:
    with pytest.raises(ImageTooLarge, match=r"2\.0 MB; the limit is 1 MB"):
        decode(bytes(2_000_000), replace(LIMITS, max_bytes=1_000_000))


def test_a_limit_above_pillows_own_holds_without_a_warning() -> None:
    huge = encoded(Image.new("1", (10_000, 9_500)), "PNG")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(huge, replace(LIMITS, max_pixels=100_000_000)).size == (10_000, 9_500)


def test_running_out_of_memory_is_the_images_own_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", no_memory)

    with pytest.raises(ImageTooLarge, match="memory"):
        decode(encoded(photo(), "PNG"), LIMITS)


def test_threads_decode_independently() -> None:
    files = [encoded(photo(), image_format) for image_format in ("JPEG", "PNG", "WEBP", "TIFF")] * 8
    alone = [decode(data, LIMITS).tobytes() for data in files]

    with ThreadPoolExecutor(4) as pool:
        assert [image.tobytes() for image in pool.map(lambda data: decode(data, LIMITS), files)] == alone


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("size", "least", "by"), [((1203, 801), 200, 4), ((1203, 801), 401, 1), ((800, 1203), 400, 2)])
def test_a_large_jpeg_is_decoded_to_a_fraction(size: tuple[int, int], least: int, by: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = photo().resize(size, Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95, exif=exif)

    reduced, whole = decode_reduced(data, LIMITS, least), decode(data, LIMITS)

    assert (reduced.size, reduced.reduced_by) == (whole.size, by)
    assert reduced.image.size == tuple(-(-side // by) for side in whole.size)
    assert min(reduced.image.size) >= least
    region = reduced.within((0, 0, *whole.size))
    ours = reduced.image.resize((64, 64), Image.Resampling.BILINEAR, box=region)
    theirs = whole.resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean() < 1


def test_other_formats_are_decoded_whole() -> None:
    found = decode_reduced(encoded(photo(), "PNG"), LIMITS, 1)

    assert found.image.size == found.size == (WIDTH, HEIGHT)
    assert found.reduced_by == 1
