"""What a PNG holds beside its pixels does not cost the pixels, however large it is."""

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageCms

from heatmill.errors import ImageUnreadable
from heatmill.images.profiles import PRIMARIES, display_profile
from tests.shared.images.pictures import difference, encoded, png, png_chunk, read, scene

LARGE = zlib.compress(b"a workflow " * 200_000)
P3 = display_profile(PRIMARIES[12], None)
HEADER = 8 + 25


def with_chunks(*chunks: tuple[bytes, bytes], behind: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The scene, with chunks behind its header and others before its end."""
    plain = encoded(scene(), "PNG")
    before, after = (b"".join(png_chunk(*chunk) for chunk in each) for each in (chunks, behind))
    return plain[:HEADER] + before + plain[HEADER:-12] + after + plain[-12:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"workflow\0\0" + LARGE),
        (b"iTXt", b"workflow\0\1\0\0\0" + LARGE),
        (b"zTXt", b"workflow\0\7" + LARGE),
        (b"zTXt", b"Raw profile type exif\0\0" + LARGE),
        (b"iTXt", b"Raw profile type exif\0\1\0\0\0" + LARGE),
    ],
)
def test_large_text_does_not_cost_the_pixels(chunk: tuple[bytes, bytes]) -> None:
    for data in (with_chunks(chunk), with_chunks(behind=[chunk]), with_chunks(*[chunk] * 2, behind=[chunk])):
        photo = read(data)
        assert difference(photo, scene()) == 0
        assert photo.notes == ()


def test_exif_that_was_written_as_text_still_turns_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()
    text = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
    for chunk in (
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        (b"tEXt", b"Raw profile type exif\0" + text),
    ):
        photo = read(with_chunks((b"tEXt", b"Software\0a writer"), chunk))
        assert difference(photo, scene().transpose(Image.Transpose.ROTATE_270)) == 0


def test_a_profile_above_pillows_limit_is_applied() -> None:
    large, small = (with_chunks((b"iCCP", b"P3\0\0" + zlib.compress(P3 + bytes(size)))) for size in (1_500_000, 0))

    assert np.array_equal(np.asarray(read(large).image), np.asarray(read(small).image))
    assert read(large).notes == read(small).notes != ()


def test_a_profile_that_is_too_large_is_ignored_and_told() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(5_000_000)

    photo = read(with_chunks((b"iCCP", b"sRGB\0\0" + zlib.compress(profile))))

    assert difference(photo, scene()) == 0
    assert photo.notes == ("the colour profile is damaged or has more than 4 MB, and was ignored",)


def test_a_palette_that_is_missing_is_named() -> None:
    for data in (png(np.zeros((4, 4), np.uint8), 8, 3), png(np.zeros((4, 4), np.uint8), 8, 3, (b"PLTE", b""))):
        with pytest.raises(ImageUnreadable, match=r"it has no palette \(PLTE\)"):
            read(data)
