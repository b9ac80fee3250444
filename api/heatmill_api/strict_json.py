"""Read JSON as a contract: what another parser would read differently is refused, never guessed."""

import json
import math
import re
from typing import Any, NoReturn

from heatmill.errors import InvalidRequest, MalformedRequest

# Where a half of a surrogate pair may stand: such a text cannot be written as UTF-8 again.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_INTEGER_DIGITS = 18


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MalformedRequest: Not JSON as RFC 8259 and I-JSON have it: bad UTF-8, NaN, a number out of range, a name
            given twice, nesting too deep.
        InvalidRequest: JSON, but not an object.
    """
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise MalformedRequest(f"the body is not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise MalformedRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", [{"pointer": "", "detail": "must be an object"}])
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


def _bounded(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError(f"the number {text[:40]} is out of range")
    return int(text)
