"""How a stored picture is turned to be upright, and which tag says so: EXIF's own, or TIFF's.

Pillow takes the orientation of a file without such a tag from its XMP, which editors leave there when they turn the
pixels themselves. No viewer that follows EXIF turns by it.
"""

from contextlib import suppress

from PIL import Image

from heatmill.images.damage import DAMAGE

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({5, 6, 7, 8})
# Of which the upright picture begins with what is stored last.
FROM_RIGHT, FROM_BOTTOM = frozenset({2, 3, 6, 7}), frozenset({3, 4, 7, 8})
# Of what Pillow has turned while it loaded, or libheif.
TURNED = frozenset({"TIFF", "HEIF"})
EXIF, EXIF_AS_TEXT, XMP = "exif", "Raw profile type exif", ("xmp", "XML:com.adobe.xmp")


def forget_xmp(image: Image.Image) -> None:
    """Drop it once a file is opened: Pillow turns a TIFF's pixels by it while it loads them."""
    for name in XMP:
        image.info.pop(name, None)


def stated_orientation(image: Image.Image) -> int:
    """1 to 8 of a loaded file, 1 where it is upright or says nothing; of an AVIF the container's, as Pillow hands it.

    Broken metadata says nothing: the pixels are sound.
    """
    if image.format in TURNED:
        return 1
    with suppress(*DAMAGE):
        exif = Image.Exif()
        exif.load(_stored_exif(image))
        return int(exif.get(ORIENTATION, 1))
    return 1


def _stored_exif(image: Image.Image) -> bytes:
    if EXIF_AS_TEXT in image.info and EXIF not in image.info:
        # A PNG's, as ImageMagick wrote it: three lines, then hexadecimal numbers.
        return bytes.fromhex("".join(image.info[EXIF_AS_TEXT].split("\n")[3:]))
    return bytes(image.info.get(EXIF, b""))


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture, turned."""
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def begins_before(size: tuple[int, int], by: int, orientation: int) -> tuple[int, int]:
    """By how many pixels of the whole a reduced picture begins left of it and above it.

    The decoder fills up the last stored column and row of squares.

    Args:
        size: Of the whole, upright.
        by: How much it is reduced.
        orientation: As stated.
    """
    beyond = -size[0] % by, -size[1] % by
    return beyond[0] if orientation in FROM_RIGHT else 0, beyond[1] if orientation in FROM_BOTTOM else 0
