"""Read JSON as a contract: what another parser would read differently is refused, never guessed."""

import json
import math
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from heatmill.errors import InvalidRequest, MalformedRequest, TooLarge
from heatmill.schemas.manifest_lines import distinct_names, refuse_constant

# Where a half of a surrogate pair may stand: such a text cannot be written as UTF-8 again.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_INTEGER_DIGITS = 18
# In all objects of a body together: every unknown one costs a fault, and the largest request has 30,000.
MAX_NAMES = 50_000
# In all lists and objects of a body together: an empty one takes two bytes there, and 64 here.
MAX_VALUES = 100_000
# What begins a value, but for the first one of a list or an object; a text may hold the same characters.
TEXT_OR_VALUE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MalformedRequest: Not JSON as RFC 8259 and I-JSON have it: bad UTF-8, NaN, a number out of range, a name
            given twice, nesting too deep.
        InvalidRequest: JSON, but not an object.
        TooLarge: More names, or more values, than any request has.
    """
    _check_values(text)
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=_Names().distinct,
            parse_constant=refuse_constant,
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


def _check_values(text: bytes) -> None:
    """Refuse what would take many times its own size, before any of it is read.

    Raises:
        TooLarge: There are too many lists, objects and entries of these.
    """
    if sum(map(text.count, (b"[", b"{", b","))) <= MAX_VALUES:
        return
    values = (found for found in TEXT_OR_VALUE.finditer(text) if not found[0].startswith(b'"'))
    if next(islice(values, MAX_VALUES, None), None) is not None:
        raise TooLarge(
            f"the body has more than {MAX_VALUES:,} values, the limit; list items in a manifest, as `source`"
        )


@dataclass
class _Names:
    """Counts the names of a body while it is read."""

    count: int = 0

    def distinct(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object's pairs as a dict."""
        self.count += len(pairs)
        if self.count > MAX_NAMES:
            raise TooLarge(f"the body's objects have more than {MAX_NAMES:,} names together, the limit")
        return distinct_names(pairs)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


def _bounded(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError(f"the number {text[:40]} is out of range")
    return int(text)
