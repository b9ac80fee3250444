"""Classes by index or by name."""

from pathlib import Path

import pytest

from heatmill.catalogue.labels import read_labels, stock_labels, target_index
from heatmill.errors import TargetUnknown

IMAGENET = stock_labels("imagenet")
LABELS = ("tench, Tinca tinca", "goldfish", "crane", "7", "Crane")


def test_the_bundled_labels_are_imagenets_thousand() -> None:
    assert len(IMAGENET) == 1000
    assert (IMAGENET[0], IMAGENET[967], IMAGENET[999]) == ("tench", "espresso", "toilet tissue")


@pytest.mark.parametrize(
    ("target", "index"),
    [(0, 0), (4, 4), ("goldfish", 1), ("GoldFish ", 1), ("tench", 0), ("Tinca tinca", 0), ("tench, tinca tinca", 0)],
)
def test_an_index_a_label_or_a_synonym_names_a_class(target: int | str, index: int) -> None:
    assert target_index(LABELS, target) == index


def test_digits_are_an_index_unless_a_class_is_called_so() -> None:
    assert target_index(LABELS, "1") == 1
    assert target_index(LABELS, "7") == 3


@pytest.mark.parametrize("target", [-1, 5, "5", 10**30])
def test_an_index_out_of_range_is_told_the_range(target: int | str) -> None:
    with pytest.raises(TargetUnknown, match="the classes are 0 to 4"):
        target_index(LABELS, target)


@pytest.mark.parametrize(("labels", "name", "indices"), [(IMAGENET, "cardigan", "264, 474"), (LABELS, "crane", "2, 4")])
def test_an_ambiguous_label_is_told_its_indices(labels: tuple[str, ...], name: str, indices: str) -> None:
    with pytest.raises(TargetUnknown, match=f"'{name}' names the classes {indices}; give the index"):
        target_index(labels, name)


def test_an_unknown_label_is_told_the_closest() -> None:
    with pytest.raises(TargetUnknown, match=r"no class 'expreso'; the closest are 'espresso' \(967\)"):
        target_index(IMAGENET, "expreso")


def test_labels_are_read_from_text_and_from_json(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "labels.json").write_text('["cat", "dog"]')

    assert read_labels(tmp_path / "labels.txt") == read_labels(tmp_path / "labels.json") == ("cat", "dog")


@pytest.mark.parametrize("content", ["{", "{}", "[]", "[1]"])
def test_a_file_that_holds_no_labels_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)

    with pytest.raises(ValueError, match=r"labels\.json"):
        read_labels(tmp_path / "labels.json")
