"""Names of files on a terminal."""

import os
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from heatmill.printable import is_utf8, printable


@given(st.text(st.characters() | st.characters(categories=["Cc", "Cs"])))
def test_what_is_printed_has_no_control_characters_and_can_be_sent(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in shown)
    shown.encode()
    has_controls = any(unicodedata.category(character) == "Cc" for character in text)
    assert (shown == text) == (not has_controls and is_utf8(text))


def test_escapes_are_those_that_people_know() -> None:
    assert printable("a\n\x1b[31m\x9b") == r"a\n\x1b[31m\x9b"
    assert printable(os.fsdecode(b"latin \xe9")) == r"latin \xe9"
    assert printable("left\u200bright \u202e crème") == "left\u200bright \u202e crème"
