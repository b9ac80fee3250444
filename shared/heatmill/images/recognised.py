"""What a file is that is no image of an accepted format, by its first bytes."""

import re
from codecs import BOM_UTF8

from heatmill.images.heif import readable_formats

# Where a mark begins, the mark, and what has it. The first that fits counts.
MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (128, b"DICM", "a DICOM file"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL codestream"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (Fujifilm RAF)"),
    (0, b"IIRO", "a camera's raw file (Olympus ORF)"),
    (0, b"IIRS", "a camera's raw file (Olympus ORF)"),
    (0, b"IIU\0", "a camera's raw file (Panasonic RW2)"),
    (0, b"FOVb", "a camera's raw file (Sigma X3F)"),
    (0, b"II\xbc", "a JPEG XR image"),
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"\0\0\1\0", "a Windows icon (ICO)"),
    (0, b"icns", "an Apple icon (ICNS)"),
    *((0, bytes([10, version, 1]), "a PCX image") for version in (0, 2, 3, 4, 5)),
    (0, b"\x01\xda\0", "an SGI image"),
    (0, b"\x01\xda\1", "an SGI image"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (0, b"\x8aMNG", "an MNG animation"),
    (0, b"\x8bJNG", "a JNG image"),
    (0, b"BPG\xfb", "a BPG image"),
    (0, b"FLIF", "a FLIF image"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (0, b"\0\0\2\0", "a Windows cursor or a Targa image"),
    (0, b"v/1\1", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"DDS ", "a DirectDraw surface (DDS)"),
    (0, b"qoif", "a QOI image"),
    (0, b"gimp xcf", "a GIMP document (XCF)"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (344, b"n+1\0", "a NIfTI file"),
    (0, b"\x93NUMPY", "a NumPy array (npy)"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"PK\5\6", "an empty ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\7", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"version https://git-lfs", "a pointer of Git LFS to a large file that was not downloaded"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a WAVE sound"),
    (0, b"\0\0\1\xba", "an MPEG video"),
    (0, b"FLV\1", "a Flash video"),
    (0, b"ID3", "an MP3 sound"),
    (0, b"OggS", "an Ogg sound or video"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"\xd0\xcf\x11\xe0", "a document of an old Microsoft Office"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"bplist", "a property list"),
    (0, b"Joy!peff", "a program"),
)
# The brands of the ISO base media format, which films, HEIC and AVIF share.
BRANDS = {
    b"heic": "a HEIC photo",
    b"heix": "a HEIC photo",
    b"heim": "a HEIC photo",
    b"heis": "a HEIC photo",
    b"hevc": "a HEIC sequence",
    b"hevx": "a HEIC sequence",
    b"mif1": "a HEIF photo",
    b"msf1": "a HEIF sequence",
    b"avif": "an AVIF image that is damaged or of a kind that is not read",
    b"avis": "an AVIF sequence that is damaged or of a kind that is not read",
    b"crx ": "a camera's raw file (Canon CR3)",
    b"qt  ": "a QuickTime video",
    b"jxl ": "a JPEG XL image",
}
# Formats that are read, so that only damage or a rare kind explains why this file was not.
READ = (
    (b"\xff\xd8", "a JPEG"),
    (b"\x89PNG", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"II+\0", "a TIFF"),
)
HEIC = "; HEIC is read where the service has the package pi-heif (`pip install heatmill[heic]`)"
# How an image begins that was written as text.
AS_TEXT = (b"data:image/", b"iVBORw0KGgo", b"/9j/", b"R0lGOD", b"UklGR")
BEHIND = ((b"\x89PNG\r\n\x1a\n", "a PNG"), (b"\xff\xd8\xff", "a JPEG"))
TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e\x80-\xff]+")
HEAD = 1024


def recognised(data: bytes) -> str | None:
    """What the bytes are, with an article; None where nobody knows."""
    marked = next((name for offset, mark, name in MARKS if data.startswith(mark, offset)), None)
    return marked or _video(data) or _unreadable(data) or _behind(data[:HEAD]) or _text(data[:HEAD])


def _video(data: bytes) -> str | None:
    """What has the boxes of the ISO base media format."""
    if data[4:8] != b"ftyp":
        return None
    name = BRANDS.get(data[8:12], "an MP4 or another video")
    if "HEI" not in name:
        return name
    return f"{name} that is damaged or of a kind that is not read" if "HEIF" in readable_formats() else name + HEIC


def _unreadable(data: bytes) -> str | None:
    """A format that is read, of which this file was not."""
    name = next((name for mark, name in READ if data.startswith(mark)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        name = "a WebP"
    return f"{name} that is damaged or of a kind that is not read" if name else None


def _behind(head: bytes) -> str | None:
    """An image that begins late."""
    places = ((head.find(mark), name) for mark, name in BEHIND)
    return next((f"{name} behind {place} other bytes" for place, name in places if place > 0), None)


def _text(head: bytes) -> str | None:
    """What a file of characters is."""
    if not head.strip(b"\0"):
        return "nothing but zeros"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[2:].replace(b"\0", b"")
    head = head.removeprefix(BOM_UTF8).lstrip()
    if head.startswith(AS_TEXT):
        return "an image written as text (base64)"
    text = head.lower()
    if re.match(rb"p[1-7]\s", text):
        return "a Netpbm image (PBM, PGM, PPM or PAM)"
    if not TEXT.fullmatch(text):
        return None
    return _markup(text) or ("a JSON document" if re.match(rb'[{\[]\s*["{\[\]}\d]', text) else "plain text")


def _markup(text: bytes) -> str | None:
    if not text.startswith(b"<"):
        return None
    if re.search(rb"<(\w+:)?svg[\s>]", text) and not re.search(rb"<(html|body)[\s>]", text):
        return "an SVG drawing"
    if re.search(rb"<(!doctype\s+html|html|head|body|script|title|meta)[\s>]", text):
        return "an HTML page"
    return "an XML document"
