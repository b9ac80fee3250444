"""JSON pointers."""

from heatmill.schemas.json_pointer import pointer


def test_a_pointer_escapes_what_means_something() -> None:
    assert pointer([]) == ""
    assert pointer(["items", 3, "a/b~c", ""]) == "/items/3/a~1b~0c/"
