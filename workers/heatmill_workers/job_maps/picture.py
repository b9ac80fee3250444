"""A map as a picture: one point per image, coloured by the class that the model predicts, with a legend."""

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE = 960
LEGEND = 340
MARGIN = 40
TITLE_HEIGHT = 50
FONT_PIXELS = 18
MAX_LABEL = 30
# Drawn larger and shrunk, so that circles are smooth.
OVERSAMPLING = 2
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
OTHERS = (200, 200, 200)
# Tableau 10: ten colours that stay apart, also for most who see colours differently.
COLOURS = (
    (78, 121, 167), (242, 142, 43), (225, 87, 89), (118, 183, 178), (89, 161, 79),
    (237, 201, 72), (176, 122, 161), (255, 157, 167), (156, 117, 95), (80, 80, 80),
)  # fmt: skip

Colour = tuple[int, int, int]


def scatter(points: NDArray[np.floating], labels: Sequence[str], title: str) -> bytes:
    """A PNG, the same for the same input.

    Args:
        points: (N, 2).
        labels: N predicted classes; the ten most frequent have a colour of their own.
        title: One line.
    """
    ranking = sorted(Counter(labels).items(), key=lambda entry: (-entry[1], entry[0]))
    colours = dict(zip((label for label, _ in ranking), COLOURS, strict=False))
    picture = Image.new("RGB", (SIDE + LEGEND, SIDE + TITLE_HEIGHT), BACKGROUND)
    picture.paste(_cloud(points, [colours.get(label, OTHERS) for label in labels]), (0, TITLE_HEIGHT))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PIXELS)
    draw.text((MARGIN, TITLE_HEIGHT // 2), _line(title, 90), INK, font, anchor="lm")
    for line, (label, count) in enumerate(_legend(ranking)):
        middle = TITLE_HEIGHT + MARGIN + line * 2 * FONT_PIXELS
        _dot(draw, (SIDE + FONT_PIXELS, middle), 7, colours.get(label, OTHERS))
        draw.text((SIDE + 2 * FONT_PIXELS, middle), f"{_line(label, MAX_LABEL)}  {count:,}", INK, font, anchor="lm")
    file = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _cloud(points: NDArray[np.floating], colours: Sequence[Colour]) -> Image.Image:
    """The points in a square, both axes to one scale: only distances mean something."""
    side, margin = SIDE * OVERSAMPLING, MARGIN * OVERSAMPLING
    centre = (points.max(0) + points.min(0)) / 2
    half = max(float(np.ptp(points, axis=0).max()) / 2, 1e-9)
    places = side / 2 + (points - centre) / half * (side / 2 - margin)
    # From 3 to 14 pixels: that many points cover about a tenth of the square.
    radius = OVERSAMPLING * float(np.clip(SIDE * 0.18 / np.sqrt(len(points)), 1.5, 7))
    picture = Image.new("RGB", (side, side), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    # Classes without a colour of their own lie below the others.
    for number in sorted(range(len(points)), key=lambda number: colours[number] != OTHERS):
        x, y = places[number]
        _dot(draw, (float(x), side - float(y)), radius, colours[number])
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def _legend(ranking: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    shown, others = list(ranking[: len(COLOURS)]), ranking[len(COLOURS) :]
    return [*shown, (f"{len(others)} other classes", sum(count for _, count in others))] if others else shown


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _line(text: str, longest: int) -> str:
    """One line that is not too long; the font draws what it lacks as a box."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
