"""Files in a folder: names that cannot hurt, and never half a file."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from heatmill.client.downloads import FileNames, Origin, fetch_rows, read_fetched, whole_file
from heatmill.errors import ServiceUnavailable
from heatmill.schemas import Problem, Row, StoredArray, StoredFile, StoredPicture, Target

NASTY = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "...", ".hidden", "-rf", "a/b", "a_b", "a\\b", "A_B", "a\nb",
    "x" * 512, "x" * 511 + "y", "é" * 512, "e\u0301", "\u00e9", "con:", "a b", "*?<>|\"'$`", "a_b-7",
    "results.jsonl", "index.html", "😀", "con.png", "AUX.png", "nul", "com1.tar.png", "lpt9", "Cat.png", "cat.png",
    "cat.PNG",
    "stra\u00dfe", "strasse", "\ufb01sh", "fish", "a\u200bb", "\u202eab", "a b ", "a.", "a..", "\u0130", "i\u0307",
]  # fmt: skip


def row(item: str, index: int = 0, **more: object) -> Row:
    picture = StoredPicture(key="k", url=f"heatmap:{index}", scale=1, zero_index=0, box=(0, 0, 1, 1))
    array = StoredArray(key="k", url=f"array:{index}", shape=(1,), factor=1)
    target = Target(index=1, label="a / cat.", probability=0.5)
    fields = {"method": "saliency", "rank": 0, "status": "succeeded", "target": target, "heatmap": picture}
    return Row.model_validate({"item": item, "index": index, "attribution": array, **fields, **more})


def echo(file: StoredFile) -> bytes:
    return str(file.url).encode()


def fetch(directory: Path, *rows: Row, download: Callable[[StoredFile], bytes] = echo) -> int:
    return fetch_rows(rows, directory, Origin(download))


DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}


@pytest.mark.parametrize("item", NASTY)
def test_no_file_is_a_device_of_another_system(item: str) -> None:
    assert FileNames().of_item(row(item)).partition(".")[0].lower() not in DEVICES


@pytest.mark.parametrize("item", NASTY)
def test_no_item_is_written_outside_of_the_folder(tmp_path: Path, item: str) -> None:
    folder = tmp_path / "a" / "b"
    fetch(folder, row(item))
    (only,) = read_fetched(folder)
    assert only.item == item
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == sorted(f"a/b/{name}" for name in ["results.jsonl", *only.files.values()])
    assert all(not name.startswith((".", "-")) for name in only.files.values())


def test_no_two_items_share_a_file_on_any_file_system(tmp_path: Path) -> None:
    rows = [row(item, index) for index, item in enumerate([*NASTY, *NASTY])]
    fetch(tmp_path, *rows)
    fetched = list(read_fetched(tmp_path))
    names = [name.casefold() for one in fetched for name in one.files.values()]
    assert len(set(names)) == len(names) == 2 * len(rows)
    for one in fetched:
        assert (tmp_path / one.files["heatmap"]).read_bytes() == f"heatmap:{one.index}".encode()


def test_the_results_of_one_item_are_told_apart_though_two_classes_have_one_label(tmp_path: Path) -> None:
    fetch(tmp_path, row("a"), row("a", rank=1), row("a", method="grad_cam"), row("a", method="lime", target=None))
    assert [one.files["heatmap"] for one in read_fetched(tmp_path)] == [
        "a.saliency.0-a___cat_.png",
        "a.saliency.1-a___cat_.png",
        "a.grad_cam.0-a___cat_.png",
        "a.lime.0.png",
    ]


def test_a_name_is_the_same_whenever_it_is_asked_for() -> None:
    names = FileNames()
    assert [names.of_item(row("a/b", 1)), names.of_item(row("a_b", 2)), names.of_item(row("a/b", 1))] == [
        "a_b",
        "a_b-2",
        "a_b",
    ]


def test_signed_urls_are_not_kept(tmp_path: Path) -> None:
    fetch(tmp_path, row("a"))
    assert "heatmap:" not in (tmp_path / "results.jsonl").read_text()


def test_a_failed_row_has_no_files(tmp_path: Path) -> None:
    error = Problem(type="t", title="Image unreadable", detail="broken")
    assert fetch(tmp_path, row("a", status="failed", target=None, heatmap=None, attribution=None, error=error)) == 1
    (only,) = read_fetched(tmp_path)
    assert (only.files, only.error) == ({}, error)


def test_a_fetch_that_breaks_off_leaves_whole_files_only(tmp_path: Path) -> None:
    def breaks(file: StoredFile) -> bytes:
        if file.url == "array:1":
            raise ServiceUnavailable("gone")
        return echo(file)

    with pytest.raises(ServiceUnavailable):
        fetch(tmp_path, row("a"), row("b", 1), download=breaks)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(left) <= {"a.saliency.0-a___cat_.png", "a.saliency.0-a___cat_.npy", "b.saliency.0-a___cat_.png"}
    assert b"" not in left.values()


def test_a_file_that_could_not_be_finished_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines(cast("list[bytes]", [b"half", None]))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"before")]


def test_a_link_in_the_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.saliency.0-a___cat_.png").symlink_to(tmp_path / "target")
    fetch(folder, row("a"))
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_nothing_to_fetch_gives_an_empty_list(tmp_path: Path) -> None:
    assert fetch(tmp_path) == 0
    assert list(read_fetched(tmp_path)) == []
