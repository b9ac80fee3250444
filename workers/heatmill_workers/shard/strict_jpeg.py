"""JPEGs decoded by libjpeg-turbo's own interface, which tells of a damaged stream; Pillow's does not.

The pixels are the same as Pillow's, bit by bit, at the same pace or faster: the same library, with the same transform
and the same scaling.
"""

import simplejpeg
from PIL import Image

from heatmill.images import JpegWarning

# How the library's warnings about lost pixels begin; others are about metadata.
DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression", "Invalid SOS parameters")
LAYOUTS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


def decode_jpeg(data: bytes, opened: Image.Image) -> Image.Image:
    """The picture of an opened JPEG, at the size to which it was told to reduce itself.

    Raises:
        JpegWarning: The stream is damaged.
    """
    width, height = opened.size
    try:
        pixels = simplejpeg.decode_jpeg(data, LAYOUTS[opened.mode], min_height=height, min_width=width, strict=True)
    except (KeyError, ValueError) as error:
        if str(error).startswith(DAMAGE):
            raise JpegWarning(error) from error
        return _by_pillow(opened)
    if opened.mode == "CMYK" or pixels.shape[:2] != (height, width):
        # Of which values ink has is Pillow's to say.
        return _by_pillow(opened)
    picture = Image.fromarray(pixels[..., 0] if opened.mode == "L" else pixels)
    picture.info = opened.info
    return picture


def _by_pillow(opened: Image.Image) -> Image.Image:
    opened.load()
    return opened
