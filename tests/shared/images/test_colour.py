"""Whatever way a file states its colours, what the model sees is sRGB, and the row says how."""

import struct
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from heatmill.images.profiles import ADOBE_GAMMA, ADOBE_RGB, PRIMARIES, SRGB, display_profile
from tests.shared.images.pictures import difference, encoded, mask, on_white, png, read, scene

P3 = display_profile(PRIMARIES[12], None)
LINEAR = display_profile(SRGB, 1.0)
# The numbers of sRGB's pure red in Display P3, and of its pure green in Adobe RGB (1998).
RED_IN_P3, GREEN_IN_ADOBE = (234, 51, 35), (144, 255, 60)
LOSSY = 3.0


def plain(colour: tuple[int, int, int] = RED_IN_P3) -> Image.Image:
    return Image.new("RGB", (96, 64), colour)


def seen(data: bytes) -> tuple[int, ...]:
    colour = read(data).image.getpixel((40, 30))
    assert isinstance(colour, tuple)
    return tuple(int(value) for value in colour)


def in_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """The numbers that show the same colours."""
    target, srgb = ImageCms.getOpenProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, srgb, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB")
    assert converted is not None
    return converted


def gray_profile(exponent: float) -> bytes:
    """One curve and no primaries."""
    return icc(b"GRAY", b"XYZ ", b"kTRC", b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)))


def press_profile(nodes: int = 5) -> bytes:
    """A table for inks of which cyan takes away half of red only."""
    steps = np.linspace(0, 1, nodes)
    cyan, magenta, yellow, black = (part.ravel() for part in np.meshgrid(*[steps] * 4, indexing="ij"))
    light = np.stack([1 - cyan / 2, 1 - magenta, 1 - yellow], axis=1) * (1 - black[:, None])
    colours = Image.fromarray((light[None] * 255).round().astype(np.uint8))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    seen = ImageCms.profileToProfile(colours, srgb, lab, ImageCms.Intent.RELATIVE_COLORIMETRIC, "LAB")
    assert seen is not None
    # Of a and b, profiles have 128 for what a picture has 0.
    table = np.frombuffer(seen.tobytes(), np.uint8).reshape(-1, 3) ^ np.array([0, 128, 128], np.uint8)
    identity = struct.pack(">9i", *(65536 * (number % 4 == 0) for number in range(9)))
    head = b"mft1" + bytes(4) + bytes((4, 3, nodes, 0)) + identity
    return icc(b"CMYK", b"Lab ", b"A2B0", head + bytes(range(256)) * 4 + table.tobytes() + bytes(range(256)) * 3)


def icc(space: bytes, connection: bytes, name: bytes, content: bytes) -> bytes:
    """A profile of one table or curve."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        name: content,
    }
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4s4s4s4s4s", start + len(body), b"lcms", b"\2\x10\0\0", kind, space, connection)
    dated = head + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp"
    return dated.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + body


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_is_applied_and_told_in_every_format(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 95} if image_format != "PNG" else {}
    data = encoded(plain(), image_format, icc_profile=P3, **options)

    assert np.abs(np.subtract(seen(data), (255, 0, 0))).max() <= 4
    assert read(data).notes == ("the colour profile 'stated' was applied: the colours were converted to sRGB",)


def test_a_profile_shows_the_same_picture() -> None:
    for profile in (P3, LINEAR, display_profile(ADOBE_RGB, ADOBE_GAMMA)):
        data = encoded(in_profile(scene(), profile), "PNG", icc_profile=profile)
        assert difference(read(data), scene()) < LOSSY


def test_a_profile_of_bmp_is_applied() -> None:
    flat = encoded(plain(), "BMP")
    pixels = flat[54:]
    header = struct.pack("<IiiHHIIiiII", 124, 96, 64, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16)
    header += struct.pack("<I", 0x4D424544) + bytes(48) + struct.pack("<III", 0, 124 + len(pixels), len(P3)) + bytes(4)
    data = b"BM" + struct.pack("<IHHI", 14 + 124 + len(pixels) + len(P3), 0, 0, 14 + 124) + header + pixels + P3

    assert np.abs(np.subtract(seen(data), (255, 0, 0))).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        display_profile(SRGB, None),
    ],
    ids=["LittleCMS", "from numbers"],
)
def test_srgb_is_not_told(profile: bytes) -> None:
    photo = read(encoded(scene(), "PNG", icc_profile=profile))

    assert photo.notes == ()
    assert difference(photo, scene()) == 0


@pytest.mark.parametrize(
    ("profile", "word"),
    [
        (b"this is none" * 20, "cannot be read and was ignored"),
        (P3[:200], "cannot be read and was ignored"),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "colour space Lab"),
        (gray_profile(2.2), "it is for gray, the pixels are RGB"),
    ],
    ids=["nonsense", "cut off", "Lab", "gray"],
)
def test_a_profile_that_cannot_be_applied_is_told(profile: bytes, word: str) -> None:
    photo = read(encoded(scene(), "PNG", icc_profile=profile))

    assert difference(photo, scene()) == 0
    assert len(photo.notes) == 1
    assert word in photo.notes[0]


def test_a_profile_for_other_pixels_than_cmyk_is_told() -> None:
    (note,) = read(encoded(scene().convert("CMYK"), "JPEG", icc_profile=P3)).notes

    assert "it is for RGB, the pixels are CMYK" in note


def test_a_profile_of_which_a_part_is_missing_is_told() -> None:
    data = encoded(scene(), "JPEG", icc_profile=P3 + bytes(70_000))
    start = data.index(b"ICC_PROFILE\0") - 4
    data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]

    assert read(data).notes == ("the colour profile is damaged and was ignored",)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF"])
def test_gray_is_shown_by_its_own_profile(image_format: str) -> None:
    light = np.asarray(scene().convert("L")) / 255
    linear = Image.fromarray((light**2.2 * 255).round().astype(np.uint8))

    photo = read(encoded(linear, image_format, icc_profile=gray_profile(1.0)))

    assert difference(photo, scene().convert("L")) < LOSSY
    assert "was applied" in photo.notes[0]


def test_gray_of_sixteen_bits_and_gray_with_alpha_are_shown_by_their_profile() -> None:
    light = np.asarray(scene().convert("L")) / 255
    wide = (light**2.2 * 65535).round().astype(np.uint16)
    with_alpha = np.dstack([wide, np.full_like(wide, 65535)])

    assert (
        difference(read(encoded(Image.fromarray(wide), "TIFF", icc_profile=gray_profile(1.0))), scene().convert("L"))
        < LOSSY
    )
    clear = Image.merge("LA", [Image.fromarray((part >> 8).astype(np.uint8)) for part in np.moveaxis(with_alpha, 2, 0)])
    assert difference(read(encoded(clear, "PNG", icc_profile=gray_profile(1.0))), scene().convert("L")) < LOSSY


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_inks_are_shown_by_the_profile_of_their_press(image_format: str) -> None:
    for inks, colour in (
        ((255, 0, 0, 0), (128, 255, 255)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ):
        data = encoded(Image.new("CMYK", (96, 64), inks), image_format, icc_profile=press_profile())
        assert np.abs(np.subtract(seen(data), colour)).max() <= 3
        assert "was applied" in read(data).notes[0]


def test_gray_with_a_profile_for_rgb_takes_its_curve() -> None:
    light = np.asarray(scene().convert("L")) / 255
    linear = Image.fromarray((light**2.2 * 255).round().astype(np.uint8))

    assert difference(read(encoded(linear, "JPEG", quality=95, icc_profile=LINEAR)), scene().convert("L")) < LOSSY


def test_a_palette_and_alpha_keep_their_profile() -> None:
    stored = in_profile(scene(), P3)
    clear, reference = stored.convert("RGBA"), scene().convert("RGBA")
    clear.putalpha(mask())
    reference.putalpha(mask())

    assert difference(read(encoded(stored.quantize(256), "PNG", icc_profile=P3)), scene()) < LOSSY
    photo = read(encoded(clear, "PNG", icc_profile=P3))
    assert difference(photo, on_white(reference)) < LOSSY
    assert [word in note for word, note in zip(("profile", "transparent"), photo.notes, strict=True)] == [True, True]


def numbers(*places: float) -> bytes:
    return struct.pack(">8I", *(round(place * 100_000) for place in places))


P3_PLACES = numbers(0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_PLACES = numbers(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
GAMMA = struct.pack(">I", 45455)


@pytest.mark.parametrize(
    ("chunks", "word"),
    [
        ([(b"cICP", bytes((12, 13, 0, 1)))], "Display P3"),
        ([(b"cICP", bytes((12, 13, 0, 1))), (b"sRGB", b"\0")], "Display P3"),
        ([(b"gAMA", GAMMA), (b"cHRM", P3_PLACES)], "gAMA and cHRM"),
        ([(b"cHRM", P3_PLACES)], "gAMA and cHRM"),
    ],
)
def test_a_png_states_its_colours_in_chunks(chunks: list[tuple[bytes, bytes]], word: str) -> None:
    data = png(np.asarray(plain()), 8, 2, *chunks)

    assert np.abs(np.subtract(seen(data), (255, 0, 0))).max() <= 2
    assert word in read(data).notes[0]


def test_a_png_states_its_gamma() -> None:
    linear = ((np.asarray(scene()) / 255) ** 2.2 * 255).round().astype(np.uint8)
    data = png(linear, 8, 2, (b"gAMA", struct.pack(">I", 100_000)))

    assert difference(read(data), scene()) < LOSSY


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", GAMMA)],
        [(b"gAMA", GAMMA), (b"cHRM", SRGB_PLACES)],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],
        [(b"cICP", bytes((1, 13, 0, 1)))],
    ],
)
def test_chunks_that_state_srgb_are_not_told(chunks: list[tuple[bytes, bytes]]) -> None:
    photo = read(png(np.asarray(scene()), 8, 2, *chunks))

    assert photo.notes == ()
    assert difference(photo, scene()) == 0


@pytest.mark.parametrize(
    ("chunk", "word"),
    [
        ((b"cICP", bytes((9, 16, 0, 1))), "PQ"),
        ((b"cICP", bytes((9, 18, 0, 1))), "HLG"),
        ((b"cICP", bytes((1, 13, 0, 0))), "narrow range"),
        ((b"cHRM", bytes(32)), "was ignored"),
        ((b"gAMA", bytes(4)), "was ignored"),
    ],
)
def test_colours_that_cannot_be_applied_are_told(chunk: tuple[bytes, bytes], word: str) -> None:
    photo = read(png(np.asarray(scene()), 8, 2, chunk))

    assert difference(photo, scene()) == 0
    assert word in photo.notes[0]


@pytest.mark.parametrize("exif_says", [{0xA001: 2}, {0xA001: 65535, 0xA005: {1: "R03"}}])
def test_a_camera_that_says_adobe_rgb_in_exif_means_it(exif_says: dict[int, object]) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(exif_says)
    data = encoded(plain(GREEN_IN_ADOBE), "JPEG", quality=95, subsampling=0, exif=exif)

    assert np.abs(np.subtract(seen(data), (0, 255, 0))).max() <= 5
    assert "Adobe RGB" in read(data).notes[0]


@pytest.mark.parametrize("exif_says", [{0xA001: 1}, {0xA001: 65535}, {0xA001: 65535, 0xA005: {1: "R98"}}])
def test_a_camera_that_says_srgb_or_nothing_is_taken_at_its_word(exif_says: dict[int, object]) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(exif_says)

    assert read(encoded(scene(), "JPEG", exif=exif)).notes == ()


def test_a_tiff_states_its_primaries_in_tags() -> None:
    places = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
    data = encoded(plain(), "TIFF", tiffinfo={318: (0.3127, 0.3290), 319: places})

    assert np.abs(np.subtract(seen(data), (255, 0, 0))).max() <= 2
    assert "TIFF's tags" in read(data).notes[0]


def test_an_avif_states_its_colours_in_a_box() -> None:
    data = encoded(plain(), "AVIF", quality=100)
    start = data.index(b"nclx") + 4
    stated = data[:start] + struct.pack(">HH", 12, 13) + data[start + 4 :]

    assert read(data).notes == ()
    assert np.abs(np.subtract(seen(stated), (255, 0, 0))).max() <= 4
    assert "Display P3" in read(stated).notes[0]


def test_threads_share_a_profile() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 64, 96, 3), dtype=np.uint8)
    files = [encoded(Image.fromarray(part), "PNG", icc_profile=P3) for part in noise]
    alone = [read(data).image.tobytes() for data in files]

    with ThreadPoolExecutor(4) as pool:
        assert [photo.image.tobytes() for photo in pool.map(read, files * 4)] == alone * 4
