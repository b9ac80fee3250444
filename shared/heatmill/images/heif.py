"""Which formats can be read here: HEIC needs the package pi-heif, which brings LGPL libraries and is an extra."""

from functools import cache

from PIL import AvifImagePlugin, Image

from heatmill.schemas.image_types import FORMATS

# Photos are decoded in several threads already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats; HEIF among them where pi-heif is installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return FORMATS
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return (*FORMATS, "HEIF")


def ignored_turn(image: Image.Image, data: bytes) -> str | None:
    """A note where EXIF or XMP turns a HEIC; by ISO/IEC 23008-12 the file's own properties alone count."""
    stated = image.info.get("original_orientation") if image.format == "HEIF" else None
    if stated in {None, 1} or b"irot" in data or b"imir" in data:
        return None
    return (
        f"the orientation {stated} of EXIF or XMP was ignored: in HEIC the file's own rotation counts, and it has none"
    )
