"""How a file's numbers become sRGB.

A profile is applied by LittleCMS, relative colorimetric with black point compensation. One that differs from sRGB by at
most 2 of 255 anywhere is taken for sRGB, and nothing is said. What cannot be applied is told in a note.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

from PIL import Image, ImageChops, ImageCms

from heatmill.images.damage import DAMAGE, in_short
from heatmill.images.stated import Stated

# Largest difference from sRGB that is none: profiles round its curve differently.
SAME = 2
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
KINDS = {"L": "gray", "RGB": "RGB", "CMYK": "CMYK"}
LEVELS = 9


def to_srgb(colours: Image.Image, stated: Stated) -> tuple[Image.Image, str | None]:
    """The RGB picture, and what there is to tell.

    Args:
        colours: L, RGB or CMYK.
        stated: What the file says of them.
    """
    try:
        return _applied(colours, stated)
    except (ImageCms.PyCMSError, *DAMAGE) as error:
        return colours.convert("RGB"), f"the colour profile cannot be read and was ignored: {in_short(error)}"


def _applied(colours: Image.Image, stated: Stated) -> tuple[Image.Image, str | None]:
    found = None if stated.profile is None else _conversion(stated.profile)
    if found is None:
        return colours.convert("RGB"), stated.fault
    colours = _as(found.mode, colours)
    if found.mode != colours.mode:
        kinds = f"it is for {KINDS[found.mode]}, the pixels are {KINDS[colours.mode]}"
        return colours.convert("RGB"), f"the colour profile was ignored: {kinds}"
    applied = ImageCms.applyTransform(colours, found.transform)
    name = f" {found.name!r}" if found.name and stated.origin == "the colour profile" else ""
    return applied or colours.convert("RGB"), f"{stated.origin}{name} was applied: the colours were converted to sRGB"


def _as(mode: str, colours: Image.Image) -> Image.Image:
    """Gray as a profile for RGB takes it, and the other way round."""
    if mode == "RGB" and colours.mode == "L":
        return colours.convert("RGB")
    if mode == "L" and colours.mode == "RGB":
        red, green, blue = colours.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return red
    return colours


@dataclass(frozen=True)
class _Conversion:
    transform: ImageCms.ImageCmsTransform
    mode: str
    name: str


@lru_cache(maxsize=32)
def _conversion(profile: bytes) -> _Conversion | None:
    """From a profile to sRGB; None where it is sRGB.

    Raises:
        PyCMSError: It is no profile that can be applied.
        ValueError: It is for pixels of another kind.
    """
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = opened.profile.xcolor_space
    if space not in SPACES:
        raise ValueError(f"it is for the colour space {space.strip()}")
    flags, mode = ImageCms.Flags.BLACKPOINTCOMPENSATION, SPACES[space]
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    probe = _probe(mode)
    seen = None if probe is None else ImageCms.applyTransform(probe, transform)
    if probe is not None and seen is not None and _difference(seen, probe.convert("RGB")) <= SAME:
        return None
    return _Conversion(transform, mode, _name(opened))


def _probe(mode: str) -> Image.Image | None:
    """Colours from all over a mode's range."""
    steps = [round(255 * step / (LEVELS - 1)) for step in range(LEVELS)]
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    if mode == "RGB":
        values = bytes(value for red in steps for green in steps for blue in steps for value in (red, green, blue))
        return Image.frombytes("RGB", (LEVELS**3, 1), values)
    return None


def _difference(one: Image.Image, other: Image.Image) -> int:
    bands = ImageChops.difference(one, other).split()
    return max(int(band.getextrema()[1]) for band in bands)  # type: ignore[arg-type]


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    with suppress(ImageCms.PyCMSError, *DAMAGE):
        return "".join(filter(str.isprintable, ImageCms.getProfileDescription(profile)))[:80].strip()
    return ""
