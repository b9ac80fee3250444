"""Overlays of any size, made by whoever has the photo."""

import hashlib
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from heatmill.client.downloads import FetchedRow
from heatmill.errors import ImageUnreadable, InvalidRequest
from heatmill.images import overlay_own_photo
from heatmill.schemas import ImageRead, Row, StoredArray, StoredPicture, Target

GREEN, BLUE, RED = (0, 255, 0), (0, 0, 255), (255, 0, 0)
WIDTH, HEIGHT = 600, 400


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def turned_photo() -> bytes:
    """Turned by its EXIF; upright it is 600 x 400, green on the left and blue on the right."""
    photo = Image.new("RGB", (WIDTH, HEIGHT), GREEN)
    photo.paste(BLUE, (WIDTH // 2, 0, WIDTH, HEIGHT))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo.transpose(Image.Transpose.ROTATE_90), exif=exif)


def red_heatmap(shape: tuple[int, int] = (8, 8)) -> bytes:
    heatmap = Image.new("P", shape, 1)
    heatmap.putpalette([*BLUE, *RED])
    return encoded(heatmap)


def row(photo: bytes, *, sha256: str | None = None, drawn: bool = True) -> Row:
    """Of a model that sees the square in the middle."""
    stored = StoredPicture(key="k", scale=1, zero_index=0, box=(100, 0, 500, 400))
    return Row(
        item="photo.png",
        index=0,
        method="saliency",
        rank=0,
        status="succeeded",
        target=Target(index=0, label="cat", probability=1),
        image=ImageRead(format="PNG", size=(WIDTH, HEIGHT), sha256=sha256 or hashlib.sha256(photo).hexdigest()),
        heatmap=stored if drawn else None,
        attribution=StoredArray(key="a", shape=(1, 8, 8), factor=1) if drawn else None,
    )


def test_the_box_of_the_upright_photo_lies_below_in_its_own_pixels() -> None:
    shown = overlay_own_photo(turned_photo(), row(turned_photo()), red_heatmap(), alpha=0)
    assert shown.size == (400, 400)
    assert (shown.getpixel((10, 200)), shown.getpixel((390, 200))) == (GREEN, BLUE)


def test_alpha_and_size_are_the_callers() -> None:
    shown = overlay_own_photo(turned_photo(), row(turned_photo()), red_heatmap((8, 4)), alpha=1, size=1600)
    assert (shown.size, shown.getpixel((800, 400))) == ((1600, 800), RED)


def test_a_photo_that_a_worker_would_decode_to_a_fraction_is_shown_in_its_own_pixels() -> None:
    photo = encoded(Image.new("RGB", (3200, 4800), GREEN), "JPEG", quality=95)
    heatmap = StoredPicture(key="k", scale=1, zero_index=0, box=(0, 0, 3200, 3200))
    seen = row(photo).model_copy(update={"heatmap": heatmap})
    assert overlay_own_photo(photo, seen, red_heatmap(), alpha=0).size == (3200, 3200)


def test_another_photo_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"not the photo of photo\.png"):
        overlay_own_photo(turned_photo(), row(turned_photo(), sha256="0" * 64), red_heatmap())


def test_a_row_without_a_heatmap_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="saliency has no heatmap"):
        overlay_own_photo(turned_photo(), row(turned_photo(), drawn=False), red_heatmap())


def test_what_is_no_photo_says_so() -> None:
    with pytest.raises(ImageUnreadable):
        overlay_own_photo(b"no photo", row(b"no photo"), red_heatmap())


def test_the_example_of_the_page_makes_an_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "images.md").read_text("utf-8")
    (example,) = re.findall(r"## Larger overlays.*?```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/photo.png").write_bytes(turned_photo())
    Path("heatmaps").mkdir()
    Path("heatmaps/photo.saliency.png").write_bytes(red_heatmap())
    fetched = FetchedRow(**row(turned_photo()).model_dump(), files={"heatmap": "photo.saliency.png"})
    Path("heatmaps/results.jsonl").write_text(fetched.model_dump_json() + "\n")

    exec(example, {})  # noqa: S102 - a page of this repository

    with Image.open("heatmaps/photo.saliency.large.png") as shown:
        assert shown.size == (400, 400)
