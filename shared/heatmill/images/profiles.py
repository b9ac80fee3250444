"""Colour profiles that are made of what a file states in few numbers; ICC.1:2001, clause 6.

Args of all functions are CIE x, y of white, red, green and blue, in this order.
"""

import struct
from collections.abc import Sequence
from functools import cache

XY = tuple[float, float]
Chromaticities = tuple[XY, XY, XY, XY]
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]

D65: XY = (0.3127, 0.3290)
SRGB: Chromaticities = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB: Chromaticities = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
# By the number of colour primaries in ITU-T H.273; 2 is unspecified.
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    2: SRGB,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
PRIMARY_NAMES = {1: "sRGB", 2: "sRGB", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
# By the number of the transfer characteristics there: an exponent, or None for sRGB's curve, as which screens show
# those of video too.
TRANSFERS: dict[int, float | None] = {
    1: None,
    2: None,
    4: 2.2,
    5: 2.8,
    6: None,
    8: 1.0,
    13: None,
    14: None,
    15: None,
}
BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
D50: Vector = (0.9642, 1.0, 0.8249)


@cache
def display_profile(chromaticities: Chromaticities, exponent: float | None) -> bytes:
    """An ICC profile; its curve is sRGB's where there is no exponent.

    Raises:
        ValueError: The primaries lie on one line, or a curve cannot be stored.
    """
    white, *primaries = (_xyz(place) for place in chromaticities)
    scale = _times(_inverse(_columns(primaries)), white)
    adapted = _adaptation(white)
    columns = [_times(adapted, _scaled(primary, by)) for primary, by in zip(primaries, scale, strict=True)]
    tags = {b"desc": _description(), b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _stored(D50)}
    for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags[letter + b"XYZ"], tags[letter + b"TRC"] = _stored(column), _curve(exponent)
    return _file(tags)


def _file(tags: dict[bytes, bytes]) -> bytes:
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4s4s4s4s4s", start + len(body), b"lcms", b"\4\0\0\0", b"mntr", b"RGB ", b"XYZ ")
    dated = head + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp"
    return dated.ljust(68, b"\0") + _fixed(D50) + bytes(48) + table + body


def _description() -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", 7) + b"stated\0" + bytes(78)


def _curve(exponent: float | None) -> bytes:
    if exponent is None:
        return (
            b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
        )
    if not 0 < exponent < 256:
        raise ValueError(f"the exponent {exponent}")
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def _stored(vector: Vector) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(vector)


def _fixed(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(place: XY) -> Vector:
    x, y = place
    if y <= 0:
        raise ValueError(f"no colour has the chromaticity {x}, {y}")
    return x / y, 1.0, (1 - x - y) / y


def _adaptation(white: Vector) -> Matrix:
    """From a white to that of ICC profiles, D50."""
    cones = zip(_times(BRADFORD, D50), _times(BRADFORD, white), strict=True)
    ratios = [target / source for target, source in cones]
    scaled = tuple(_scaled(row, ratio) for row, ratio in zip(BRADFORD, ratios, strict=True))
    back, forward = _inverse(BRADFORD), list(zip(*scaled, strict=True))
    columns = [_times(back, (column[0], column[1], column[2])) for column in forward]
    return _columns(columns)


def _columns(vectors: Sequence[Vector]) -> Matrix:
    one, two, three = vectors
    return (one[0], two[0], three[0]), (one[1], two[1], three[1]), (one[2], two[2], three[2])


def _times(matrix: Matrix, vector: Vector) -> Vector:
    one, two, three = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return one, two, three


def _scaled(vector: Vector, by: float) -> Vector:
    return vector[0] * by, vector[1] * by, vector[2] * by


def _inverse(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-9:
        raise ValueError("the primaries lie on one line")
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    one, two, three = (_scaled(row, 1 / determinant) for row in rows)
    return one, two, three
