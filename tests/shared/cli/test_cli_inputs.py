"""Methods, targets and images as they stand on a command line."""

import json
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from heatmill.cli.inputs import parse_method, parse_target, read_inputs
from heatmill.cli.progress import duration


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("lime", {}),
        ("lime:", {}),
        ("lime:segments=50", {"segments": 50}),
        ("lime:a=1.5,b=true,c=null,d=-2e3", {"a": 1.5, "b": True, "c": None, "d": -2000.0}),
        ("lime:baseline=black,steps=3", {"baseline": "black", "steps": 3}),
        ('lime:a="x,y=z",b=[1,2],c={"d":3}', {"a": "x,y=z", "b": [1, 2], "c": {"d": 3}}),
        ('lime:a="50"', {"a": "50"}),
        ("lime:a=layer4.0=x,b=", {"a": "layer4.0=x", "b": ""}),
        ("lime:a=1 2,b=NaN,c=Infinity,d=50px", {"a": "1 2", "b": "NaN", "c": "Infinity", "d": "50px"}),
        ("lime: a=1, b=2", {"a": 1, "b": 2}),
    ],
)
def test_params_are_json_where_they_read_as_such(text: str, params: dict[str, JsonValue]) -> None:
    method = parse_method(text)
    assert (method.name, method.params) == ("lime", params)


@given(st.dictionaries(st.from_regex(r"\A[a-z_]{1,9}\Z"), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_params_can_be_written_as_json(params: dict[str, JsonValue]) -> None:
    text = ",".join(f"{name}={json.dumps(value)}" for name, value in params.items())
    assert parse_method(f"lime:{text}").params == params


@pytest.mark.parametrize("text", ["", ":a=1", "lime:a", "lime:=1", "lime:a=1,b", "lime:a=1, a=2"])
def test_a_method_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_method(text)


def test_a_target_of_digits_is_an_index() -> None:
    assert [parse_target(text) for text in ("281", "tabby", "8 ball", None)] == [281, "tabby", "8 ball", None]


@pytest.mark.parametrize("uri", ["s3://bucket/photos/", "s3://bucket/photos", "s3://bucket/list.jsonl", "s3://bucket/"])
def test_an_s3_uri_that_is_no_image_is_a_source(uri: str) -> None:
    inputs = read_inputs([uri])
    assert (inputs.source, inputs.items) == (uri, ())


def test_an_s3_image_is_an_item_named_by_its_file() -> None:
    (item,) = read_inputs(["s3://bucket/photos/cat.JPG"]).items
    assert (item.id, item.image) == ("cat.JPG", "s3://bucket/photos/cat.JPG")


def test_two_sources_are_refused() -> None:
    with pytest.raises(click.BadParameter, match="job of its own"):
        read_inputs(["s3://bucket/a/", "s3://bucket/b/"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="holds no images"):
        read_inputs([str(tmp_path)])


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', '{"image": "a.png", "lable": 3}', '{"image": ""}'])
def test_a_manifest_line_that_is_wrong_is_named(tmp_path: Path, line: str) -> None:
    manifest = tmp_path / "list.jsonl"
    (tmp_path / "a.png").touch()
    manifest.write_text('{"image": "a.png"}\n' + line)
    with pytest.raises(click.BadParameter, match=r"list\.jsonl, line 2"):
        read_inputs([str(manifest)])


def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    (tmp_path / "a.png").touch()
    manifest.write_text('{"image": "a.png"}', "utf-8-sig")
    assert [item.id for item in read_inputs([str(manifest)]).items] == ["a.png"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (7325, "2 h 02 min")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
