"""The boxes of AVIF and HEIF files (ISO/IEC 14496-12), as far as colours are concerned."""

import struct
from collections.abc import Iterator

# How deep the properties lie, and how many bytes stand before the boxes in a box.
HEADS = {b"meta": 4, b"iprp": 0, b"ipco": 0}


def nclx(data: bytes) -> tuple[int, int] | None:
    """Colour primaries and transfer characteristics (ITU-T H.273) of the first picture that states them."""
    for content in _colours(memoryview(data)):
        if bytes(content[:4]) == b"nclx" and len(content) >= 8:
            primaries, transfer = struct.unpack_from(">HH", content, 4)
            return int(primaries), int(transfer)
    return None


def _colours(view: memoryview) -> Iterator[memoryview]:
    for name, content in _boxes(view):
        if name in HEADS:
            yield from _colours(content[HEADS[name] :])
        elif name == b"colr":
            yield content


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    position = 0
    while position + 8 <= len(view):
        size, name = struct.unpack_from(">I4s", view, position)
        head = 8
        if size == 1 and position + 16 <= len(view):
            size, head = struct.unpack_from(">Q", view, position + 8)[0], 16
        end = len(view) if size == 0 else position + size
        if end < position + head:
            return
        yield name, view[position + head : end]
        position = end
