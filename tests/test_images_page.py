"""docs/images.md is true: its code finds the place on the photo, and what it names exists."""

import io
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.images import ImageLimits, decode_reduced
from heatmill.images.recognised import BRANDS, MARKS
from heatmill.schemas.image_types import FORMATS, IMAGE_TYPES
from heatmill.settings import Settings
from heatmill_workers.models.preprocessing import least_side, preprocess_photo
from heatmill_workers.outputs.heatmap import encode_array, render

PAGE = (Path(__file__).parents[1] / "docs" / "images.md").read_text("utf-8")
ORIENTATION = 0x0112
PLAIN = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
# On an upright photo of 1200 x 900 pixels.
SQUARE = (500, 300, 700, 500)


def code() -> str:
    # The last section has an example of its own, which tests/shared/images/test_own_photo.py runs.
    ways, _, _ = PAGE.partition("## Larger overlays")
    return "\n".join(re.findall(r"```python\n(.*?)```", ways, re.DOTALL))


def photo_with_a_square(orientation: int) -> bytes:
    """A photo that is blue but for a red square, lying on its side where the orientation is 6."""
    image = Image.new("RGB", (1200, 900), "blue")
    image.paste((255, 0, 0), SQUARE)
    stored = image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


def explained(folder: Path, photo: bytes, cells: int, *, reduces: bool) -> NDArray[np.float32]:
    """Write a row and its files, as fetched, of a method that finds what is red; gives the attribution."""
    preprocessing = PLAIN.model_copy(update={"reduced_decoding": reduces})
    read = decode_reduced(photo, ImageLimits(10**8, 10**8), least_side(preprocessing))
    tensor, box = preprocess_photo(read, preprocessing)
    red = (tensor[0] - tensor[2]).clamp(min=0).numpy()
    side = 224 // cells
    attribution: NDArray[np.float32] = red.reshape(cells, side, cells, side).mean(axis=(1, 3))[None] * 3
    picture, array = render(attribution, "positive", (224, 224)), encode_array(attribution)
    (folder / "a.npy").write_bytes(array.npy)
    (folder / "a.png").write_bytes(picture.png)
    row = {
        "image": {"size": read.size, "reduced_by": read.reduced_by},
        "files": {"attribution": "a.npy", "heatmap": "a.png"},
        "attribution": {"shape": attribution.shape, "factor": array.factor},
        "heatmap": {"box": box, "scale": picture.scale, "zero_index": picture.zero_index},
    }
    (folder / "results.jsonl").write_text(json.dumps(row) + "\n")
    return attribution


@pytest.mark.parametrize("reduces", [True, False])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("cells", [7, 224])
def test_the_code_leads_from_an_attribution_to_the_photos_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int, orientation: int, reduces: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heatmaps").mkdir()
    (tmp_path / "photo.jpg").write_bytes(photo_with_a_square(orientation))
    attribution = explained(tmp_path / "heatmaps", (tmp_path / "photo.jpg").read_bytes(), cells, reduces=reduces)

    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code(), "docs/images.md", "exec"), names)  # noqa: S102 - the page is ours

    left, top, right, bottom = names["strongest"]
    assert SQUARE[0] - 2 <= left < right <= SQUARE[2] + 2 or cells == 7
    assert min(right, SQUARE[2]) > max(left, SQUARE[0])
    assert min(bottom, SQUARE[3]) > max(top, SQUARE[1])
    ys, xs = np.nonzero(np.nan_to_num(names["pixels"]) > np.nanmax(names["pixels"]) / 2)
    found, cell = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), 900 / 256 * 224 / cells
    assert np.abs(np.subtract(found, SQUARE)).max() <= cell
    assert np.isnan(names["pixels"][:, 0]).all()
    assert np.abs(names["values"] - attribution).max() < 1e-2
    if cells == 224:
        assert np.abs(names["drawn"] - attribution[0]).max() <= names["row"]["heatmap"]["scale"] * 0.51


def test_the_tables_name_every_format_and_ending() -> None:
    rows = re.findall(r"^\| (\w+) \| (`\..*?) \|", PAGE, re.MULTILINE)

    assert {name.upper() for name, _ in rows} == {*FORMATS, "HEIC"}
    assert {ending for _, cell in rows for ending in re.findall(r"`(\.\w+)`", cell)} == set(IMAGE_TYPES)


def test_the_example_of_models_toml_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (entry,) = tomllib.loads(example)["models"]
    preprocessing = ModelSpec.model_validate(entry).preprocessing

    assert preprocessing is not None
    assert not preprocessing.reduced_decoding


def test_the_settings_are_named_as_they_are() -> None:
    named = {name.lower() for name in re.findall(r"`HEATMILL_(MAX_\w+)`", PAGE)}

    assert named == {"max_image_bytes", "max_image_pixels"}
    assert named <= set(Settings.model_fields)
    assert Settings.model_fields["max_image_pixels"].default == 50_000_000


def test_as_many_other_kinds_are_recognised_as_the_page_says() -> None:
    assert 50 <= len({name for _, _, name in MARKS} | set(BRANDS.values())) < 70
