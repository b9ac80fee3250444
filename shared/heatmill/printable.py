"""Text from outside as a terminal may have it: no character of it is a command."""

import re

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
# Python reads a byte of a file's name that is no UTF-8 as half a character.
HALVES = re.compile("[\ud800-\udfff]")
NOT_PRINTABLE = re.compile(f"{CONTROLS.pattern}|{HALVES.pattern}")


def printable(text: str) -> str:
    r"""The text with each control character, and each byte that was no UTF-8, written as an escape such as `\x1b`."""
    return NOT_PRINTABLE.sub(_escaped, text)


def without_halves(text: str) -> str:
    r"""The text as UTF-8 can hold it: each half of a character, as bytes that are no UTF-8 are read, as an escape."""
    return HALVES.sub(_escaped, text)


def is_utf8(text: str) -> bool:
    """Whether it can be sent as UTF-8."""
    return HALVES.search(text) is None


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
