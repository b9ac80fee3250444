"""The picture of a map."""

import io

import numpy as np
from PIL import Image

from heatmill_workers.job_maps.picture import COLOURS, OTHERS, SIDE, TITLE_HEIGHT, scatter


def drawn(points: list[list[float]], labels: list[str]) -> Image.Image:
    return Image.open(io.BytesIO(scatter(np.array(points), labels, "a map"))).convert("RGB")


def near(found: object, wanted: tuple[int, int, int]) -> bool:
    return isinstance(found, tuple) and max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 8


def test_points_lie_where_the_map_says_in_the_colour_of_their_class() -> None:
    picture = drawn([[-1, -1], [1, 1], [-1, 1]], ["cat", "dog", "cat"])
    left, right, top, bottom = 40, SIDE - 40, TITLE_HEIGHT + 40, TITLE_HEIGHT + SIDE - 40
    assert near(picture.getpixel((left, bottom)), COLOURS[0])
    assert near(picture.getpixel((right, top)), COLOURS[1])
    assert near(picture.getpixel((left, top)), COLOURS[0])
    assert near(picture.getpixel((right, bottom)), (255, 255, 255))


def test_rare_classes_share_one_colour() -> None:
    points = [[float(n), float(n)] for n in range(12)]
    picture = drawn(points, [f"class {n:02}" for n in range(12)])
    assert near(picture.getpixel((SIDE - 40, TITLE_HEIGHT + 40)), OTHERS)


def test_the_same_map_gives_the_same_bytes_whatever_its_labels_hold() -> None:
    points, labels = np.zeros((3, 2)), ["", "ünï 猫 \n" * 20, "x" * 500]
    assert scatter(points, labels, "t" * 500) == scatter(points, labels, "t" * 500)
