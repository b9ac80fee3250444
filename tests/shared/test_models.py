"""An operator's models.toml."""

from pathlib import Path

import pytest

from heatmill.models import Preprocessing, read_models, spec_labels

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
