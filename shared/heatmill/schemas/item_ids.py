"""Ids of items: what cannot be one, and that no two items have one."""

import re
from collections.abc import Iterable
from itertools import chain, count

from heatmill.errors import InvalidRequest
from heatmill.printable import printable, without_halves
from heatmill.schemas import ID_PATTERN, MAX_ID_LENGTH

# Of the id of an item that fails for its name: the end of the name, and room for a number.
SHOWN_LENGTH = 480


def name_fault(name: str) -> str | None:
    r"""Why a file's name or an object's key cannot be an id, if so; bytes that are no UTF-8 can, as `\xe9` say."""
    name = without_halves(name)
    if name and not re.fullmatch(ID_PATTERN, name):
        return "the name cannot be an id: it has control characters"
    if len(name) > MAX_ID_LENGTH:
        return f"the name cannot be an id: it has {len(name)} characters; the limit is {MAX_ID_LENGTH}"
    return None


def shown_id(name: str) -> str:
    """An id that shows a name that cannot be one."""
    shown = printable(name)
    return shown if len(shown) <= SHOWN_LENGTH else f"...{shown[-SHOWN_LENGTH:]}"


def free_id(name: str, taken: set[str]) -> str:
    """As `shown_id`, with a number where another item has it; it is taken then."""
    shown = shown_id(name)
    candidates = chain([shown], (f"{shown} ({number})" for number in count(2)))
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return free


def check_distinct(named: Iterable[tuple[str | None, str]]) -> None:
    """Check that no two items have one id.

    Args:
        named: The id, or None for an item that is called by its position, and where the item comes from.

    Raises:
        InvalidRequest: Two have; the message names both.
    """
    origins: dict[str, str] = {}
    for number, (name, origin) in enumerate(named):
        known = str(number) if name is None else name
        told = f"{origin} (called by its position)" if name is None else origin
        if known in origins:
            raise InvalidRequest(f"two images have the id {known!r}: {origins[known]} and {told}; ids must differ")
        origins[known] = told
