"""A picture without symmetry, files that Pillow does not write, and how far a reading is from the picture."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatmill.images import ImageLimits, Photo, decode_reduced

LIMITS = ImageLimits(max_bytes=50_000_000, max_pixels=50_000_000)
WIDTH, HEIGHT = 96, 64
Samples = NDArray[np.generic]


def scene() -> Image.Image:
    """Colours that change slowly, a red square on the upper left, a dark one on the lower right."""
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    colours = np.stack([40 + 180 * across, 70 + 150 * down, 210 - 160 * across * down], axis=2)
    colours[8:24, 16:40], colours[40:60, 60:90] = (220, 40, 30), (20, 25, 45)
    return Image.fromarray(colours.round().astype(np.uint8))


def gray() -> NDArray[np.uint16]:
    """The same without colour, in 16 bits."""
    return np.asarray(scene().convert("L")).astype(np.uint16) * 257


def mask() -> Image.Image:
    """Opaque on the left, transparent on the right, with steps between."""
    steps = np.linspace(255, 0, WIDTH).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(steps, (HEIGHT, WIDTH)).copy())


def on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def read(data: bytes) -> Photo:
    """The whole photo."""
    return decode_reduced(data, LIMITS, None)


def difference(photo: Photo, reference: Image.Image) -> float:
    """The mean over all values, of 255."""
    assert photo.image.size == reference.size
    one, other = (np.asarray(image.convert("RGB"), dtype=float) for image in (photo.image, reference))
    return float(np.abs(one - other).mean())


def packed(values: Samples, bits: int) -> bytes:
    """Numbers of so many bits without gaps, each row starting at a byte."""
    each = (values[..., None].astype(np.uint64) >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def tiff(blocks: Sequence[bytes], tags: Mapping[int, Sequence[int]], order: str = "<") -> bytes:
    """One page of the scene's size, in strips, or in tiles of which the tags give the size; values that fit 16 bits."""
    offsets, lengths = (324, 325) if 322 in tags else (273, 279)
    entries: dict[int, Sequence[int]] = {256: [WIDTH], 257: [HEIGHT], 259: [1], 277: [1], 278: [HEIGHT], **tags}
    entries |= {offsets: [0] * len(blocks), lengths: [len(block) for block in blocks]}
    head = 8 + 2 + 12 * len(entries) + 4
    far = head
    places = {}
    for tag, values in sorted(entries.items()):
        places[tag], far = far, far + 4 * len(values)
    entries[offsets] = [far + sum(map(len, blocks[:number])) for number in range(len(blocks))]
    directory, values_behind = b"", bytearray(far - head)
    for tag, values in sorted(entries.items()):
        code = "I" if tag in {offsets, lengths} else "H"
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) <= 4:
            field = content.ljust(4, b"\0")
        else:
            field = struct.pack(order + "I", places[tag])
            values_behind[places[tag] - head : places[tag] - head + len(content)] = content
        directory += struct.pack(order + "HHI", tag, 4 if code == "I" else 3, len(values)) + field
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    count = struct.pack(order + "H", len(entries))
    return mark + count + directory + bytes(4) + bytes(values_behind) + b"".join(blocks)


def png(values: Samples, bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples (rows, columns) or (rows, columns, channels), with chunks before its pixels."""
    rows = values.reshape(len(values), -1)
    lines = [row.astype(">u2").tobytes() for row in rows] if bits == 16 else [packed(row[None], bits) for row in rows]
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    header = png_header(values.shape[1], values.shape[0], bits, colour_type)
    return header + b"".join(png_chunk(*chunk) for chunk in (*chunks, (b"IDAT", pixels), (b"IEND", b"")))


def png_header(width: int, height: int, bits: int, colour_type: int, *, interlaced: bool = False) -> bytes:
    """The start of a PNG."""
    content = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", content)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """With its length and its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
