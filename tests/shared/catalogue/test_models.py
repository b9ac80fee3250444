"""An operator's models.toml."""

import json
from pathlib import Path
from typing import Any

import pytest

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import (
    ModelSpec,
    Preprocessing,
    given_labels,
    read_models,
    spec_labels,
    stated_activation,
)

FULL = """
[[models]]
name = "birds"
loader = "torchvision"
architecture = "resnet50"
weights = "weights/birds.safetensors"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
labels = "birds.txt"
cam_layer = "layer4"

[models.preprocessing]
resize = 256
crop = [192, 224]
interpolation = "bicubic"

[[models]]
name = "two"
loader = "bundled"
labels = ["cat", "dog"]
"""


def test_an_entry_is_read_and_its_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(FULL)
    (tmp_path / "birds.txt").write_text("wren\nrobin\n")

    birds, two = read_models(tmp_path / "models.toml")

    assert birds.weights == tmp_path / "weights" / "birds.safetensors"
    assert (birds.builds, two.builds) == ("resnet50", "two")
    assert (spec_labels(birds), spec_labels(two)) == (("wren", "robin"), ("cat", "dog"))
    assert birds.preprocessing == Preprocessing(resize=256, crop=(192, 224), interpolation="bicubic")
    assert birds.preprocessing.input_size == (192, 224)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[models]]\nname='a'", r"models\[0\]\.loader: Field required"),
        (
            "[[models]]\nname='a'\nloader='pickle'",
            r"models\[0\]\.loader: Input should be 'bundled', 'torchvision', 'timm'",
        ),
        ("[[models]]\nname='A b'\nloader='bundled'", r"models\[0\]\.name"),
        ("[[models]]\nname='a'\nloader='bundled'\nwieghts='x'", r"models\[0\]\.wieghts"),
        ("[[models]]\nname='a'\nloader='bundled'\nsha256='x'", r"models\[0\]\.sha256"),
        (
            "[[models]]\nname='a'\nloader='bundled'\npreprocessing={fit='cover'}",
            r"models\[0\]\.preprocessing: .*`fit` needs `resize` as \(height, width\)",
        ),
        ("[[models]]\nname='a'\nloader='bundled'\n" * 2, "two models are called 'a'"),
        ("[[model]]\nname='a'", "unknown key 'model'"),
        ("[[models]", "models.toml: "),
    ],
)
def test_a_fault_names_the_file_and_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)

    with pytest.raises(ValueError, match=message) as caught:
        read_models(path)

    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        read_models(tmp_path / "nowhere.toml")


def test_weights_may_lie_in_a_bucket_and_a_background_be_a_set_of_images(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        "[[models]]\nname='a'\nloader='bundled'\nweights='s3://weights/a.safetensors'\n"
        f"sha256='{'0' * 64}'\nbackground=['blur', 's3://sets/1.png']"
    )

    (entry,) = read_models(tmp_path / "models.toml")

    assert (entry.weights, entry.weights_uri) == (None, "s3://weights/a.safetensors")
    assert entry.background == ("blur", "s3://sets/1.png")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("weights='s3://weights/a.pth'", "weights from a URI need `sha256`"),
        ("background=[]", r"models\[0\]\.background"),
        ("background=['grey']", r"models\[0\]\.background\.0"),
        ("background=['s3://sets/']", r"models\[0\]\.background\.0"),
    ],
)
def test_a_wrong_background_or_an_unchecked_uri_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "models.toml").write_text(f"[[models]]\nname='a'\nloader='bundled'\n{line}")

    with pytest.raises(ValueError, match=message):
        read_models(tmp_path / "models.toml")


ONE_LABEL: dict[str, Any] = {"name": "scan", "loader": "timm", "labels": ["sick"]}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ("not sick", "sick")),
        ({"activation": "sigmoid"}, ("not sick", "sick")),
        ({"activation": "none"}, ("sick",)),
        ({"labels": ["well", "sick"]}, ("well", "sick")),
        ({"labels": ["tench, Tinca tinca"]}, ("not tench", "tench, Tinca tinca")),
    ],
)
def test_one_label_is_two_classes_unless_it_names_a_value(fields: dict[str, Any], wanted: tuple[str, ...]) -> None:
    assert spec_labels(ModelSpec.model_validate({**ONE_LABEL, **fields})) == wanted


@pytest.mark.parametrize(
    ("config", "activation", "labels"),
    [
        ({"problem_type": "regression"}, "none", ("age",)),
        ({"problem_type": "multi_label_classification"}, "sigmoid", ("not age", "age")),
        ({"problem_type": "single_label_classification"}, None, ("not age", "age")),
        ({"problem_type": None}, None, ("not age", "age")),
        ({}, None, ("not age", "age")),
    ],
)
def test_a_transformers_folder_says_what_its_outputs_are(
    tmp_path: Path, config: dict[str, Any], activation: str | None, labels: tuple[str, ...]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "age"}, **config}))
    spec = ModelSpec(name="age", loader="transformers", architecture=str(tmp_path))

    assert (stated_activation(spec), spec_labels(spec), given_labels(spec)) == (activation, labels, ("age",))


def test_what_an_operator_says_of_the_outputs_counts_more_than_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "age"}, "problem_type": "regression"}))
    spec = ModelSpec(name="age", loader="transformers", architecture=str(tmp_path), activation="sigmoid")

    assert (stated_activation(spec), spec_labels(spec)) == (None, ("not age", "age"))


def test_both_classes_of_one_output_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[[models]]\nname='scan'\nloader='timm'\nlabels=['sick']\n")
    catalogue = load_catalogue(tmp_path / "models.toml")

    assert catalogue.model("scan").labels == ("not sick", "sick")
    assert [catalogue.target_index("scan", target) for target in ("not sick", "Sick", 1)] == [0, 1, 1]
