"""The kinds of image that are read."""

from typing import get_args

from PIL import Image

from heatmill.image_types import FORMATS, IMAGE_TYPES, ImageType


def test_every_type_has_an_ending_and_pillow_knows_it_by_its_format() -> None:
    Image.init()
    assert set(IMAGE_TYPES.values()) == set(get_args(ImageType)) == {Image.MIME[name] for name in FORMATS}
    assert {Image.EXTENSION[ending] for ending in IMAGE_TYPES} == set(FORMATS)
