"""One line of a JSONL manifest, read without guessing."""

import json
from collections import Counter
from typing import Any, NoReturn

from heatmill.printable import without_halves


def read_line(line: bytes) -> dict[str, Any]:
    """A line's JSON object; an `id` with halves of characters has them as escapes, as files are called by their names.

    Raises:
        ValueError: It is none, is no UTF-8, is nested too deeply, or gives two values under one name.
    """
    try:
        fields = json.loads(line.decode(), object_pairs_hook=distinct_names, parse_constant=refuse_constant)
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON {type(fields).__name__}, not an object")  # noqa: TRY004 - of the data, not of a type
    if isinstance(fields.get("id"), str):
        fields["id"] = without_halves(fields["id"])
    return fields


def distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's pairs as a dict.

    Raises:
        ValueError: Two have one name.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {repeated!r} is given twice")
    return found


def refuse_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which are Python's, not JSON's.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{text} is not a JSON number")
