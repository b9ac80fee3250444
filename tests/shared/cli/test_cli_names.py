"""Which id each file of a command line gets: one file, one id, or a refusal that names both."""

import json
import os
from pathlib import Path

import click
import pytest

from heatmill.cli.inputs import Inputs, read_inputs
from heatmill.schemas import ItemRequest


def write(folder: Path, *names: str) -> None:
    """Files whose content is their own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(inputs: Inputs) -> dict[str, str]:
    """Each item's id, and what its file holds, which is the file's name."""
    found = {str(item.id): os.fsdecode(Path(item.image).read_bytes()) for item in inputs.items if item.error is None}
    assert len(found) == len([item for item in inputs.items if item.error is None])
    return found


def failed(inputs: Inputs) -> dict[str, str]:
    """Each item that must fail, and why."""
    return {str(item.id): item.error for item in inputs.items if item.error is not None}


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["a", "b"], ["a/x.jpg", "b/x.jpg", "a/y.jpg"]),
        (["a", "b", "c"], ["a/x.jpg", "b/x.jpg", "c/a/x.jpg", "a/y.jpg"]),
        (["m", "n"], ["m/p.png", "m/n/p.png", "m/n/m/p.png", "n/p.png", "n/m/p.png", "n/m/n/p.png"]),
        (["2023/dogs", "2024/dogs"], ["2023/dogs/1.png", "2024/dogs/1.png", "2024/dogs/2.png"]),
        (["1.png", "set"], ["1.png", "set/1.png", "set/set/1.png"]),
        (["a/s.png", "b/s.png", "a/b/s.png"], ["a/s.png", "b/s.png", "a/b/s.png"]),
        (["./a/", ".//b"], ["a/x.png", "b/x.png"]),
        (["a", "a b"], ["a/b/x.png", "a b/x.png"]),
    ],
)
def test_of_several_roots_each_id_carries_its_root(here: Path, arguments: list[str], files: list[str]) -> None:
    write(here, *files)
    assert named(read_inputs(arguments)) == {name: name for name in files}


def test_of_one_folder_ids_begin_below_it_and_one_file_is_called_by_its_name(here: Path) -> None:
    write(here, "photos/a.png", "photos/deep/a.png")
    assert named(read_inputs(["photos"])) == {"a.png": "photos/a.png", "deep/a.png": "photos/deep/a.png"}
    assert named(read_inputs([str(here / "photos")])) == named(read_inputs(["photos"]))
    assert named(read_inputs(["photos/deep/a.png"])) == {"a.png": "photos/deep/a.png"}


ALIKE = [
    "Cat.png", "cat.png", "cat.PNG", "cr\u00e8me.png", "cre\u0300me.png", "stra\u00dfe.png", "strasse.png",
    "\ufb01sh.png", "fish.png", "x/y.png", "x_y.png", "x-y.png", "x y.png", "x\\y.png", "x%2Fy.png", "x.y.png",
    "x/y.png.png", "eye.png", "eye.bmp", "eye.tif", "eye.png.png", "a#b?c=d.png", "-n.png", "--wait.png",
    "[red]x[/red].png", "..two dots.png", "..png", "  spaces  .png", "con.png", "left\u200bright.png",
    "\u202egnp.png", "a" * 250 + "1.png", "\u00e9" * 125 + "1.png", "line\u2028separator.png",
]  # fmt: skip


def test_names_that_are_alike_stay_apart(here: Path) -> None:
    write(here, *ALIKE)
    inputs = read_inputs(["."])
    assert named(inputs) == {name: name for name in ALIKE}
    assert inputs.left_out == {}


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (["photos", "photos/old"], "photos", "photos/old"),
        (["photos/old", "photos"], "photos", "photos/old"),
        (["photos", "./photos/"], "photos", "./photos/"),
        (["photos", "photos/old/../old/a.png"], "photos", "photos/old/../old/a.png"),
        (["photos/a.png", "photos/a.png"], "photos/a.png", "photos/a.png"),
        (["same", "photos"], "same", "photos"),
    ],
)
def test_a_file_that_two_arguments_name_is_refused_by_both(
    here: Path, arguments: list[str], first: str, second: str
) -> None:
    write(here, "photos/a.png", "photos/old/a.png")
    (here / "same").symlink_to("photos")
    with pytest.raises(click.BadParameter, match="named twice") as refused:
        read_inputs(arguments)
    assert repr(first) in str(refused.value)
    assert repr(second) in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "arguments", "words"),
    [
        (['{"id": "a", "image": "x.png"}', '{"id": "a", "image": "y.png"}'], ["list.jsonl"], ["line 1", "line 2"]),
        (['{"image": "x.png"}', '{"image": "x.png"}'], ["list.jsonl"], ["'x.png'", "line 1", "line 2"]),
        (['{"id": "y.png", "image": "x.png"}'], ["y.png", "list.jsonl"], ["y.png", "list.jsonl, line 1"]),
        (['{"id": "1", "image": "x.png"}', f'{{"image": "upload://{"a" * 64}"}}'], ["list.jsonl"], ["'1'", "line 2"]),
        ([f'{{"image": "upload://{"a" * 64}"}}', '{"id": "0", "image": "x.png"}'], ["list.jsonl"], ["'0'", "line 1"]),
        (['{"id": "a", "id": "b", "image": "x.png"}'], ["list.jsonl"], ["line 1", "given twice"]),
    ],
)
def test_an_id_that_two_items_have_is_refused_by_both(
    here: Path, lines: list[str], arguments: list[str], words: list[str]
) -> None:
    write(here, "x.png", "y.png")
    (here / "list.jsonl").write_text("\n".join(lines))
    with pytest.raises(click.BadParameter) as refused:
        read_inputs(arguments)
    assert all(word in str(refused.value) for word in words)


def test_two_manifests_of_one_line_each_name_their_images_from_their_own_folders(here: Path) -> None:
    write(here, "a/x.png", "b/x.png")
    for folder in "ab":
        (here / folder / "list.jsonl").write_text('{"image": "x.png"}\n')
    assert named(read_inputs(["a/list.jsonl", "b/list.jsonl"])) == {name: name for name in ("a/x.png", "b/x.png")}


def test_two_uris_of_one_file_name_are_told_apart() -> None:
    uris = ["s3://bucket/a/x.png", "s3://bucket/b/x.png"]
    assert [item.id for item in read_inputs(uris).items] == uris


CONTROLS = {
    "new\nline.png": r"new\nline.png",
    "tab\there.png": r"tab\there.png",
    "colour\x1b[31m.png": r"colour\x1b[31m.png",
    "delete\x7f.png": r"delete\x7f.png",
    "sub\r/x.png": r"sub\r/x.png",
}


def test_a_name_with_control_characters_fails_alone(here: Path) -> None:
    write(here, "good.png", *CONTROLS)
    inputs = read_inputs(["."])
    assert named(inputs) == {"good.png": "good.png"}
    assert failed(inputs).keys() == set(CONTROLS.values())
    assert all("control characters" in reason for reason in failed(inputs).values())


def test_a_file_may_be_called_what_an_item_of_a_request_may_be_called(here: Path) -> None:
    names = ["next\x85line.png", "c1\x80\x9f.png", "soft\xad.png", "wide\u3000.png"]
    write(here, *names)

    inputs = read_inputs(["."])

    assert sorted(named(inputs)) == sorted(names)
    assert [ItemRequest(id=name, image="s3://bucket/x.png").id for name in names] == names


def test_a_manifest_names_the_line_of_a_file_that_is_not_there(here: Path) -> None:
    write(here, "a.png")
    (here / "list.jsonl").write_text('{"image": "a.png"}\n\n{"image": "gone.png"}\n')

    with pytest.raises(click.BadParameter, match=r"list\.jsonl, line 3: gone\.png does not exist"):
        read_inputs(["list.jsonl"])


LATIN, SPELT = os.fsdecode(b"latin \xe9.png"), r"latin \xe9.png"


def test_a_name_that_is_no_text_is_spelt_out_in_its_id(here: Path) -> None:
    write(here, "good.png", LATIN, os.fsdecode(b"\xff/deep.png"))
    inputs = read_inputs(["."])
    assert named(inputs) == {"good.png": "good.png", SPELT: LATIN, r"\xff/deep.png": "\udcff/deep.png"}


def test_a_name_that_is_no_text_takes_no_others_id(here: Path) -> None:
    write(here, LATIN, SPELT)
    assert named(read_inputs(["."])) == {SPELT: SPELT, f"{SPELT} (2)": LATIN}


def test_a_folder_whose_name_is_no_text_is_a_root_as_others_are(here: Path) -> None:
    folder = os.fsdecode(b"\xe9")
    write(here, f"{folder}/a.png", "b/a.png")
    assert named(read_inputs([folder, "b"])) == {r"\xe9/a.png": f"{folder}/a.png", "b/a.png": "b/a.png"}


def test_a_manifest_may_name_files_and_ids_that_are_no_text(here: Path) -> None:
    write(here, LATIN, "b.png")
    lines = [{"image": LATIN}, {"id": "half \ud800", "image": "b.png"}]
    (here / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert named(read_inputs(["list.jsonl"])) == {SPELT: LATIN, r"half \ud800": "b.png"}


def test_names_longer_than_an_id_fail_alone_and_are_told_apart(here: Path) -> None:
    deep = "/".join(["d" * 90] * 6)
    write(here, "good.png", f"{deep}/deep.png", f"e/{deep}/deep.png")
    inputs = read_inputs(["."])
    assert named(inputs) == {"good.png": "good.png"}
    assert len(failed(inputs)) == 2
    assert all("512" in reason for reason in failed(inputs).values())
    assert all(len(name) <= 512 for name in failed(inputs))


def test_a_failed_name_takes_no_others_id(here: Path) -> None:
    write(here, "new\nline.png", r"new\nline.png")
    inputs = read_inputs(["."])
    assert named(inputs) == {r"new\nline.png": r"new\nline.png"}
    assert list(failed(inputs)) == [r"new\nline.png (2)"]


def test_what_is_left_out_is_counted_by_ending_and_by_kind(here: Path) -> None:
    write(here, "one.png", "two.PNG", "three.Tiff", "notes.txt", "sub/more.TXT", "draft.xcf", "README")
    write(here, ".hidden.png", "._one.png", ".thumbnails/one.png", ".DS_Store", ".git/config")
    (here / "link.png").symlink_to("one.png")
    (here / "broken.png").symlink_to("gone.png")
    (here / "linked").symlink_to("sub")
    (here / "sub" / "round").symlink_to("..")
    (here / "loop.png").symlink_to("loop.png")
    os.mkfifo(here / "pipe.png")
    inputs = read_inputs(["."])
    assert [item.id for item in inputs.items] == ["link.png", "one.png", "three.Tiff", "two.PNG"]
    assert inputs.left_out == {".txt": 2, ".xcf": 1, "": 1, "hidden": 3, "linked": 4, "special": 1}


def test_a_hidden_folder_or_file_that_is_named_is_taken(here: Path) -> None:
    write(here, ".cache/a.png", ".b.png")
    assert named(read_inputs([".cache"])) == {"a.png": ".cache/a.png"}
    assert named(read_inputs([".b.png"])) == {".b.png": ".b.png"}


def test_a_folder_that_cannot_be_read_is_counted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, "a.png", "closed/b.png")
    scandir = os.scandir

    def guarded(folder: Path) -> object:
        # A test may run as root, who may read everything.
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    assert read_inputs(["."]).left_out == {"unreadable": 1}
    with pytest.raises(PermissionError):
        read_inputs(["closed"])


@pytest.mark.parametrize("name", ["batch.jsonl", "album.png", "list.NDJSON"])
def test_a_folder_is_one_whatever_it_is_called(here: Path, name: str) -> None:
    write(here, f"{name}/one.png", f"{name}/two.png")
    assert named(read_inputs([name])) == {"one.png": f"{name}/one.png", "two.png": f"{name}/two.png"}


def test_a_manifest_is_one_whatever_the_case_of_its_ending(here: Path) -> None:
    write(here, "x.png")
    (here / "LIST.JSONL").write_bytes(b'{"image": "x.png", "id": "a\xe2\x80\xa8b"}\r\n')
    assert named(read_inputs(["LIST.JSONL"])) == {"a\u2028b": "x.png"}


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_a_manifest_without_lines_is_refused(here: Path, content: bytes) -> None:
    (here / "list.jsonl").write_bytes(content)
    with pytest.raises(click.BadParameter, match=r"list\.jsonl lists no images"):
        read_inputs(["list.jsonl"])


@pytest.mark.parametrize("uri", ["s3://bucket/album.png/", "s3://bucket/LIST.JSONL"])
def test_an_s3_folder_is_a_source_whatever_it_is_called(uri: str) -> None:
    assert read_inputs([uri]).source == uri


def test_a_folder_without_images_says_what_it_holds(here: Path) -> None:
    write(here, "notes.txt", "more.txt", ".hidden.png")
    with pytest.raises(click.BadParameter, match=r"holds no images.*2 \.txt, 1 hidden"):
        read_inputs(["."])


@pytest.mark.parametrize("argument", ["gone.png", "broken.png", "gone\x1b[31m.png"])
def test_an_argument_that_is_not_there_is_told_without_its_control_characters(here: Path, argument: str) -> None:
    write(here, "here.png")
    (here / "broken.png").symlink_to("gone.png")
    with pytest.raises(click.BadParameter, match=r"does not exist|link to nothing") as refused:
        read_inputs(["here.png", argument])
    assert argument.partition("\x1b")[0] in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_a_uri_of_nothing_is_left_to_the_service() -> None:
    assert [item.image for item in read_inputs(["foo://", "bar://x"]).items] == ["foo://", "bar://x"]


def test_a_uri_that_cannot_be_an_id_fails_alone() -> None:
    uris = ["s3://bucket/a.png", f"s3://bucket/{'d' * 600}.png", "s3://bucket/new\nline.png"]
    items = read_inputs(uris).items
    assert [item.image for item in items if item.error is None] == uris[:1]
    assert [item.id for item in items if item.error] == ["..." + uris[1][-480:], r"s3://bucket/new\nline.png"]
