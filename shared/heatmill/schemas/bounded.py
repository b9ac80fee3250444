"""Lists of a request, checked in memory that their length bounds: validation ends at a number of faults.

Pydantic itself collects a fault for every wrong entry before it looks at the limit, some kilobytes each.
"""

from functools import partial
from itertools import chain
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticKnownError

MAX_FAULTS = 100
# Entries between two counts of the faults.
ENTRIES_AT_A_TIME = 20


def at_most(entries: int) -> WrapValidator:
    """Check a list that holds at most so many entries: its length first, then its entries, until `MAX_FAULTS`."""
    return WrapValidator(partial(_checked, limit=entries))


def _checked(value: Any, handler: ValidatorFunctionWrapHandler, limit: int) -> Any:
    if not isinstance(value, list | tuple) or not value:
        return handler(value)
    if len(value) > limit:
        context = {"field_type": "Tuple", "max_length": limit, "actual_length": len(value)}
        raise PydanticKnownError("too_long", context)
    parts, faults = [], list[InitErrorDetails]()
    for start in range(0, len(value), ENTRIES_AT_A_TIME):
        try:
            parts.append(handler(value[start : start + ENTRIES_AT_A_TIME]))
        except ValidationError as error:
            # A part whose entries are wrong is too short besides, which says nothing of the whole.
            told = error.errors(include_url=False, include_input=False)
            faults += [_moved(fault, start) for fault in told if fault["loc"]]
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise ValidationError.from_exception_data("list", faults)
    return tuple(chain.from_iterable(parts))


def _moved(fault: ErrorDetails, start: int) -> InitErrorDetails:
    """The fault of an entry at its place in the whole list."""
    position, *inside = fault["loc"]
    if not isinstance(position, int):
        raise TypeError(f"a list's fault is at {fault['loc']}")
    moved: InitErrorDetails = {"type": fault["type"], "loc": (start + position, *inside), "input": None}
    if "ctx" in fault:
        moved["ctx"] = fault["ctx"]
    return moved
