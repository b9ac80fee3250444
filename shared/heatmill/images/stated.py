"""Which colours a file's numbers mean, by all the ways in which formats say so."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from heatmill.images.boxes import nclx
from heatmill.images.damage import DAMAGE, in_short
from heatmill.images.png import LARGEST_PROFILE, PROFILE, PngFacts
from heatmill.images.png import profile as png_profile
from heatmill.images.profiles import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    PRIMARIES,
    PRIMARY_NAMES,
    SRGB,
    TRANSFERS,
    Chromaticities,
    display_profile,
)
from heatmill.images.tiff_tags import PRIMARIES as PRIMARIES_TAG
from heatmill.images.tiff_tags import TRANSFER, WHITE_POINT

# A gamma this close to sRGB's stands for sRGB, as in libpng.
SRGB_GAMMA, NEAR = 1 / 2.2, 0.05
# One of 0 would be none.
SMALLEST_GAMMA = 1e-3
FULL_RANGE = 1
BRIGHT = {16: "PQ", 18: "HLG"}
EXIF_IFD, INTEROPERABILITY, COLOUR_SPACE, INDEX = 0x8769, 0xA005, 0xA001, 1
ADOBE = 2
EXIF_FORMATS = frozenset({"JPEG", "MPO", "TIFF", "WEBP"})


@dataclass(frozen=True)
class Stated:
    """What a file says of its colours.

    Args:
        profile: ICC; None where the numbers are sRGB's.
        origin: How the file says so, as a note puts it.
        fault: A note on what cannot be applied.
    """

    profile: bytes | None = None
    origin: str = ""
    fault: str | None = None


def stated_colours(image: Image.Image, data: bytes, png: PngFacts | None) -> Stated:
    """What a file says of its colours, the most exact first."""
    ways = (_of_cicp, _of_profile, _of_chunks, _of_boxes, _of_tags, _of_exif)
    file = _File(image, data, png)
    return next((found for way in ways if (found := way(file)) is not None), Stated())


@dataclass(frozen=True)
class _File:
    image: Image.Image
    data: bytes
    png: PngFacts | None


def _of_cicp(file: _File) -> Stated | None:
    code = file.png.chunks.get(b"cICP", b"") if file.png else b""
    if len(code) != 4:
        return None
    if code[3] != FULL_RANGE:
        return Stated(fault="the narrow range that cICP states was ignored: black is 0 and white the largest value")
    return _coded(code[0], code[1], "cICP")


def _of_profile(file: _File) -> Stated | None:
    info = file.image.info
    if file.png is not None and PROFILE in file.png.chunks:
        return _of_png(file.png)
    if profile := info.get("icc_profile") or _bmp_profile(file.data):
        return Stated(profile, "the colour profile")
    if "icc_profile" in info:
        return Stated(fault="the colour profile is damaged and was ignored")
    fault = _bmp_fault(file.data)
    return Stated(fault=fault) if fault else None


def _of_png(png: PngFacts) -> Stated:
    profile = png_profile(png)
    if not profile:
        most = f"{LARGEST_PROFILE >> 20} MB"
        return Stated(fault=f"the colour profile is damaged or has more than {most}, and was ignored")
    return Stated(profile, "the colour profile")


def _bmp_profile(data: bytes) -> bytes | None:
    """The profile that a BMP of version 5 holds, of which Pillow does not know."""
    if data[:2] != b"BM" or len(data) < 138 or data[14:18] != b"\x7c\0\0\0" or data[70:74] != b"DEBM":
        return None
    offset, size = struct.unpack_from("<II", data, 14 + 112)
    return data[14 + offset : 14 + offset + size] or b"none"


def _bmp_fault(data: bytes) -> str | None:
    """A note on colours that a BMP of version 4 or 5 states in a way that is not applied."""
    if data[:2] != b"BM" or data[14:18] not in {b"\x6c\0\0\0", b"\x7c\0\0\0"}:
        return None
    if data[70:74] == b"KNIL":
        return "the colour profile is a linked file, which the BMP names, and was ignored"
    # End points of the three primaries and their gammas; all zeros where a writer has nothing to say.
    if data[70:74] == bytes(4) and any(data[74:122]):
        return "the colours that the BMP states by end points and gamma were ignored"
    return None


def _of_boxes(file: _File) -> Stated | None:
    found = nclx(file.data) if file.image.format in {"AVIF", "HEIF"} else None
    return _coded(*found, "nclx") if found else None


def _of_chunks(file: _File) -> Stated | None:
    """By gAMA and cHRM, which sRGB overrules."""
    chunks = file.png.chunks if file.png else {}
    gamma, places = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    if b"sRGB" in chunks or (len(gamma) != 4 and len(places) != 32):
        return None
    value = int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else SRGB_GAMMA
    exponent = None if abs(value / SRGB_GAMMA - 1) < NEAR else 1 / max(value, SMALLEST_GAMMA)
    numbers = [number / 100_000 for number in struct.unpack(">8I", places)] if len(places) == 32 else None
    return _from_numbers(numbers, exponent, "gAMA and cHRM state")


def _of_tags(file: _File) -> Stated | None:
    """By the tags of TIFF 6.0, section 20."""
    if not isinstance(file.image, TiffImageFile):
        return None
    tags = file.image.tag_v2
    places, white = tags.get(PRIMARIES_TAG, ()), tags.get(WHITE_POINT, SRGB[0])
    if len(places) == 6 and len(white) == 2:
        return _from_numbers([float(number) for number in (*white, *places)], None, "the TIFF's tags state")
    return Stated(fault="the transfer function that the TIFF states was ignored") if TRANSFER in tags else None


def _of_exif(file: _File) -> Stated | None:
    """As cameras say that it is Adobe RGB, with no profile."""
    if file.image.format not in EXIF_FORMATS or not _is_adobe_rgb(file.image):
        return None
    return Stated(display_profile(ADOBE_RGB, ADOBE_GAMMA), "the colour profile Adobe RGB, which EXIF names,")


def _from_numbers(numbers: Sequence[float] | None, exponent: float | None, where: str) -> Stated:
    """By x and y of white, red, green and blue, where they are stated."""
    try:
        profile = display_profile(SRGB if numbers is None else _pairs(numbers), exponent)
    except ValueError as error:
        return Stated(fault=f"the colour profile that {where} was ignored: {in_short(error)}")
    return Stated(profile, f"the colour profile that {where}")


def _coded(primaries: int, transfer: int, where: str) -> Stated:
    """Colours by the numbers of ITU-T H.273."""
    if transfer in BRIGHT or primaries not in PRIMARIES or transfer not in TRANSFERS:
        kind = BRIGHT.get(transfer, f"primaries {primaries}, transfer {transfer}")
        fault = f"the colour profile that {where} states ({kind}) cannot be applied and was ignored"
        return Stated(fault=fault)
    name = PRIMARY_NAMES.get(primaries, f"of primaries {primaries}")
    origin = f"the colour profile {name}, transfer {transfer}, which {where} states,"
    return Stated(display_profile(PRIMARIES[primaries], TRANSFERS[transfer]), origin)


def _pairs(numbers: Sequence[float]) -> Chromaticities:
    white, red, green, blue = zip(numbers[::2], numbers[1::2], strict=True)
    return white, red, green, blue


def _is_adobe_rgb(image: Image.Image) -> bool:
    with suppress(*DAMAGE):
        exif = image.getexif()
        if not exif:
            return False
        details = exif.get_ifd(EXIF_IFD)
        index = exif.get_ifd(INTEROPERABILITY).get(INDEX)
        return details.get(COLOUR_SPACE) == ADOBE or str(index).startswith("R03")
    return False
