"""The kinds of image that are read."""

from typing import get_args

from PIL import Image

from heatmill.schemas.image_types import FORMATS, IMAGE_TYPES, ImageType


def test_every_type_has_an_ending_and_pillow_knows_it_by_its_format() -> None:
    Image.init()
    # Of HEIF, which is an extra, Pillow does not know by itself.
    known = {ending: kind for ending, kind in IMAGE_TYPES.items() if kind not in {"image/heic", "image/heif"}}
    assert set(IMAGE_TYPES.values()) == set(get_args(ImageType))
    assert set(known.values()) == {Image.MIME[name] for name in FORMATS}
    assert {Image.EXTENSION[ending] for ending in known} == set(FORMATS)
    assert {ending for ending in IMAGE_TYPES if ending not in known} == {".heic", ".heif"}
