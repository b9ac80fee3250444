"""Lists of a request are checked until a number of faults."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError

from heatmill.schemas.bounded import ENTRIES_AT_A_TIME, MAX_FAULTS, at_most

LIMIT = 1000


class Entry(BaseModel):
    """An entry with a rule of each kind."""

    number: Annotated[int, Field(strict=True, ge=0)]
    word: str = ""


class Listed(BaseModel):
    """A list of them."""

    entries: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=LIMIT), at_most(LIMIT)]


def faults(entries: object) -> list[tuple[tuple[int | str, ...], str]]:
    """Where the faults are, and of which kind."""
    with pytest.raises(ValidationError) as raised:
        Listed.model_validate({"entries": entries})
    return [(fault["loc"], fault["type"]) for fault in raised.value.errors()]


@pytest.mark.parametrize("count", [1, ENTRIES_AT_A_TIME, ENTRIES_AT_A_TIME + 1, LIMIT])
def test_good_entries_stand_in_their_order(count: int) -> None:
    listed = Listed.model_validate({"entries": [{"number": number} for number in range(count)]})

    assert [entry.number for entry in listed.entries] == list(range(count))


def test_a_fault_is_told_where_it_is_in_the_whole_list() -> None:
    entries = [{"number": 1} for _ in range(LIMIT)]
    entries[3] = {"number": -1}
    entries[777] = {}

    assert faults(entries) == [
        (("entries", 3, "number"), "greater_than_equal"),
        (("entries", 777, "number"), "missing"),
    ]


def test_after_a_number_of_faults_no_more_are_looked_for() -> None:
    found = faults([{"word": 1}] * LIMIT)

    assert MAX_FAULTS <= len(found) < MAX_FAULTS + 2 * ENTRIES_AT_A_TIME


def test_a_list_that_is_too_long_is_not_looked_into() -> None:
    assert faults([0] * (LIMIT + 1)) == [(("entries",), "too_long")]


@pytest.mark.parametrize(("entries", "kind"), [([], "too_short"), ("text", "tuple_type"), ({}, "tuple_type")])
def test_what_is_no_list_of_entries_is_refused_as_such(entries: object, kind: str) -> None:
    assert faults(entries) == [(("entries",), kind)]
