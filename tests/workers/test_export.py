"""What the API reads is what the workers have."""

import json
from importlib.resources import files
from typing import Any

import pytest
from torchvision.models import ResNet18_Weights

from heatmill_workers import export
from heatmill_workers.models.loaders import bundled, torchvision

STALE = "run `make methods`"


def stored(name: str) -> Any:
    return json.loads(files("heatmill.catalogue").joinpath("data", name).read_text("utf-8"))


def test_methods_json_is_up_to_date() -> None:
    assert stored("methods.json") == export.methods(), STALE


def test_models_json_names_every_classifier() -> None:
    assert [entry["name"] for entry in stored("models.json")] == sorted([*bundled.LABELS, *torchvision.names()])


# One that has a spatial layer, one that has none, one that no laptop could build with weights.
@pytest.mark.parametrize("name", ["maxvit_t", "vit_b_32", "regnet_y_128gf"])
def test_models_json_is_up_to_date(name: str) -> None:
    probed = {entry["name"]: entry for entry in export.models([name])}
    written = {entry["name"]: entry for entry in stored("models.json")}

    assert probed == {each: written[each] for each in (name, *bundled.LABELS)}, STALE


def test_the_labels_are_torchvisions() -> None:
    assert stored("labels/imagenet.json") == ResNet18_Weights.DEFAULT.meta["categories"], STALE


def test_the_labels_of_the_digits_are_digits() -> None:
    assert stored("labels/digits.json") == list("0123456789"), STALE
