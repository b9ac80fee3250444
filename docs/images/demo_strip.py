"""Writes `demo.jpg`, the README's picture, from the folder that `heatmill demo` filled.

python docs/images/demo_strip.py heatmill-demo
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PHOTOS = ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
COLUMNS = ("photo", "saliency", "integrated_gradients", "grad_cam")
SIDE = 190
GAP = 6
TITLE = 24


def main(folder: Path) -> None:
    """A row per photo, a column per method."""
    size = (len(COLUMNS) * (SIDE + GAP) - GAP, TITLE + len(PHOTOS) * (SIDE + GAP) - GAP)
    strip = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(15)
    for column, name in enumerate(COLUMNS):
        left = column * (SIDE + GAP)
        draw.text((left + SIDE / 2, TITLE / 2), name, fill="black", font=font, anchor="mm")
        for row, photo in enumerate(PHOTOS):
            strip.paste(_tile(folder, photo, name), (left, TITLE + row * (SIDE + GAP)))
    strip.save(Path(__file__).with_name("demo.jpg"), quality=88)


def _tile(folder: Path, photo: str, column: str) -> Image.Image:
    pattern = f"{photo}.photo.png" if column == "photo" else f"{photo}.{column}.0-*.overlay.png"
    (file,) = folder.glob(pattern)
    with Image.open(file) as picture:
        return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
