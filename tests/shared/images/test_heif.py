"""HEIC, where the extra is installed; it is recognised where it is not."""

import base64
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from heatmill.errors import ImageUnreadable
from heatmill.images import heif
from tests.shared.images.pictures import read

# 64 x 48 pixels: red on the upper left, yellow on the lower right, else blue. Written by pillow-heif.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERA"
    "AAEAAQAAAAABoQABAAAAAAAAAU4AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAA"
    "AHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAA"
    "MAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAVZtZGF0AAABSigBrwT4QTGZv/Lr///0"
    "sZ2X6HWltxtLTsceB+vfMl+0PP/+IfP1ygKyZJoDexXgRO6CkoiHYIvRalCSWpd1dsaFKcaS1+FpVQr/3n6GwCVaqWwRrJpFh/duv5aVQr02vcDhOWnT"
    "7nB9Q4CP99l9G/DHb//E11/LifUGF7h6Ev/a2S3M5i1l0ygNwdx05i3rZ7QRTMGk7nxlfplBywQD4ZWewqJ7U/QMj7p/8cf/J0P4wuYssoNgquH7UYUE"
    "85rTw41EimRWc3R3y+7D/M/3H4h/fH7hAAQ9fvtPYOFxa2wv+e143hXci2xddvDWSxRJ29HYz/YdU6GzfwH7qB2C0PBqeNOhTorIiCwBZ+A4/KDMEJho"
    "jIdXfVVFk3gZAt8hVF2u2zbRMLvsAY2q44ejhwuLW2F/ydSvtlTrlkiIJTM1IwTpUajDfizP8A=="
)


def test_a_photo_of_an_iphone_is_read() -> None:
    pytest.importorskip("pi_heif", reason="HEIC needs the extra heatmill[heic]")
    photo = read(HEIC)

    colours = np.asarray(photo.image, dtype=int)[[8, 44, 8], [8, 56, 56]]
    assert np.abs(np.subtract(colours, [(220, 40, 30), (250, 240, 20), (0, 0, 200)])).max() < 16
    assert (photo.size, photo.format, photo.notes) == ((64, 48), "HEIF", ())


def test_a_damaged_one_is_unreadable() -> None:
    pytest.importorskip("pi_heif", reason="HEIC needs the extra heatmill[heic]")
    for length in (40, 300, 600):
        with pytest.raises(ImageUnreadable):
            read(HEIC[:length])


def test_a_broken_one_does_not_ask_for_the_extra_that_is_there() -> None:
    pytest.importorskip("pi_heif", reason="HEIC needs the extra heatmill[heic]")
    for data in (HEIC[:40], HEIC[:12] + bytes(100), HEIC.replace(b"hvc1", b"xxxx")):
        with pytest.raises(ImageUnreadable, match="damaged") as refused:
            read(data)
        assert "pi-heif" not in str(refused.value)


def test_without_the_extra_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    heif.readable_formats.cache_clear()
    try:
        with pytest.raises(ImageUnreadable, match=r"it is a HEIC photo; .*pip install heatmill\[heic\]"):
            read(HEIC)
    finally:
        heif.readable_formats.cache_clear()


def test_avif_is_always_read() -> None:
    file = BytesIO()
    Image.new("RGB", (32, 16), (220, 40, 30)).save(file, "AVIF", quality=95)

    assert read(file.getvalue()).format == "AVIF"
