"""Where in a document a fault is, as RFC 6901 writes it."""

from collections.abc import Iterable


def pointer(path: Iterable[int | str]) -> str:
    """The JSON pointer of a path of names and positions."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
