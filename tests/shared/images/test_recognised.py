"""What is no image says what it is."""

import base64
import gzip
import zipfile
from io import BytesIO

import pytest

from heatmill.errors import ImageUnreadable
from tests.shared.images.pictures import encoded, read, scene


def archive() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("photo.png", encoded(scene(), "PNG"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"%!PS-Adobe", "a PostScript document"),
        (b"<!DOCTYPE html>\n<html></html>", "an HTML page"),
        (b"\xef\xbb\xbf\n<HTML><body>x</body></HTML>", "an HTML page"),
        ("<html lang='en'>".encode("utf-16"), "an HTML page"),
        (b"<!-- saved --><html>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- a drawing --><svg:svg width="9">', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b'{"error": "expired"}', "a JSON document"),
        (b"a photo of a cat\n", "plain text"),
        ("ein Foto einer Katze auf der Straße\n".encode(), "plain text"),
        (bytes(128) + b"DICM" + bytes(40), "a DICOM file"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY\1\0v\0", "a NumPy array"),
        (archive(), "a ZIP archive"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", "an MP4 or another video"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "a QuickTime video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"v/1\1\2\0\0\0", "an OpenEXR image"),
        (encoded(scene(), "JPEG2000"), "a JPEG 2000 image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (encoded(scene(), "PPM"), "a Netpbm image"),
        (encoded(scene(), "ICO"), "a Windows icon"),
        (encoded(scene().resize((32, 32)), "ICNS"), "an Apple icon (ICNS)"),
        (encoded(scene(), "PCX"), "a PCX image"),
        (encoded(scene(), "SGI"), "an SGI image"),
        (base64.b64encode(encoded(scene(), "PNG")), "an image written as text"),
        (b"data:image/png;base64,iVBORw0KGgo=", "an image written as text"),
        (b"\r\n" + encoded(scene(), "PNG"), "a PNG behind 2 other bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + encoded(scene(), "JPEG"), "a JPEG behind 19 other bytes"),
        (bytes(10_000), "nothing but zeros"),
        (b"\x89PNG\r\n\x1a\n", "a PNG that is damaged"),
    ],
)
def test_what_is_no_image_is_recognised(data: bytes, name: str) -> None:
    with pytest.raises(ImageUnreadable, match="not an image in one of the formats") as caught:
        read(data)
    assert f"; it is {name}" in str(caught.value)


def test_bytes_that_nobody_knows_are_no_image() -> None:
    with pytest.raises(ImageUnreadable, match=r"AVIF(, HEIF)?$"):
        read(bytes(range(1, 256)))
