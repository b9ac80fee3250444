"""Text from outside as a terminal may have it: no character of it is a command."""

import unicodedata


def printable(text: str) -> str:
    r"""The text with each control character, and each byte that was no UTF-8, written as an escape such as `\x1b`."""
    return "".join(character if _is_text(character) else _escaped(character) for character in text)


def has_controls(text: str) -> bool:
    """Whether there are control characters in it."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def _is_text(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cs"}


def _escaped(character: str) -> str:
    # Python reads a byte of a file's name that is no UTF-8 as a character from U+DC80 on.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
