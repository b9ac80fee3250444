"""JPEGs of any kind give Pillow's pixels, and a damaged stream is told."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heatmill.images import ImageLimits, Photo, decode_reduced
from heatmill_workers.shard.strict_jpeg import decode_jpeg
from tests.workers.photos import photo

LIMITS = ImageLimits(max_bytes=50_000_000, max_pixels=50_000_000)


def coffee() -> Image.Image:
    return Image.open(BytesIO(photo("coffee.png"))).convert("RGB")


def jpeg(mode: str = "RGB", size: tuple[int, int] = (600, 400), **options: Any) -> bytes:
    file = BytesIO()
    coffee().resize(size).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def read(data: bytes, least_side: int | None = None) -> Photo:
    return decode_reduced(data, LIMITS, least_side, decode_jpeg)


@pytest.mark.parametrize("least_side", [None, 199, 100, 50, 1])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"progressive": True}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_the_pixels_are_pillows(mode: str, options: dict[str, Any], least_side: int | None) -> None:
    data = jpeg(mode, (601, 399), **options)

    ours, theirs = read(data, least_side), decode_reduced(data, LIMITS, least_side)

    assert np.array_equal(np.asarray(ours.image), np.asarray(theirs.image))
    assert (ours.size, ours.reduced_by, ours.notes) == (theirs.size, theirs.reduced_by, theirs.notes)


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(2000) + data[middle + 2000 :]


def overwritten(data: bytes) -> bytes:
    middle = len(data) // 2
    noise = np.random.default_rng(0).integers(1, 255, 2000, dtype=np.uint8).tobytes()
    return data[:middle] + noise + data[middle + 2000 :]


def left_out(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + data[middle + 2000 :]


@pytest.mark.parametrize("damage", [zeroed, overwritten, left_out])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_damaged_middle_is_told(options: dict[str, Any], mode: str, damage: Callable[[bytes], bytes]) -> None:
    *_, note = read(damage(jpeg(mode, quality=90, **options))).notes

    assert note.startswith("the file is damaged; the decoder's warning: ")


def test_a_damaged_jpeg_in_a_tiff_is_told() -> None:
    file = BytesIO()
    coffee().save(file, "TIFF", compression="jpeg", quality=90)
    assert read(file.getvalue()).notes == ()

    for damage in (zeroed, overwritten):
        (note,) = read(damage(file.getvalue())).notes
        assert "the file is damaged" in note


def test_a_photo_behind_the_end_and_padding_are_no_damage() -> None:
    assert read(jpeg() + jpeg()).notes == ()
    assert read(jpeg() + bytes(4096)).notes == ()
