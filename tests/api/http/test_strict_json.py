"""JSON is read as a contract."""

import pytest

from heatmill.errors import InvalidRequest, MalformedRequest, TooLarge
from heatmill_api.http.strict_json import MAX_NAMES, MAX_VALUES, parse_object


def test_an_object_is_read_as_it_stands() -> None:
    assert parse_object('{"a": [1, -2.5e3, "ü", null], "\\ud83d\\ude00": true}'.encode()) == {
        "a": [1, -2500.0, "ü", None],
        "\U0001f600": True,
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}{}",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1000000000000000000000}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": ' * 100_000,
        b"[" * 100_000,
    ],
)
def test_what_another_parser_would_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_object(text)


@pytest.mark.parametrize("text", [b"[]", b"null", b'"text"', b"0"])
def test_json_that_is_not_an_object_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_object(text)


@pytest.mark.timeout(5)
def test_a_repeated_name_among_many_is_found_at_once() -> None:
    names = [f'"{number}": 1' for number in range(MAX_NAMES - 1)]
    with pytest.raises(MalformedRequest, match="'7' is given twice"):
        parse_object(f"{{{', '.join([*names, names[7]])}}}".encode())


def test_more_names_than_any_request_has_are_refused() -> None:
    small = ", ".join('{"a": 1, "b": 2}' for _ in range(MAX_NAMES // 2 + 1))
    with pytest.raises(TooLarge, match="50,000 names"):
        parse_object(f'{{"items": [{small}]}}'.encode())


@pytest.mark.parametrize("value", ["0", "{}", "[]", '"x"', "[[]]", '{"a": [1]}'])
def test_more_values_than_any_request_has_are_refused_before_they_are_read(value: str) -> None:
    with pytest.raises(TooLarge, match="100,000 values"):
        parse_object(f'{{"items": [{", ".join([value] * (MAX_VALUES + 1))}]}}'.encode())


@pytest.mark.parametrize("text", [",", "[{,", '\\"[', "\\\\"])
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    body = f'{{"a": "{text * MAX_VALUES}", "b": [1]}}'.encode()

    assert parse_object(body)["b"] == [1]
