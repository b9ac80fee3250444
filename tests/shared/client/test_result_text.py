"""A result in words."""

import pytest

from heatmill.client.result_text import class_text
from heatmill.schemas import Row, Target


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ({"probability": 0.4849}, "age 48.5%"),
        ({"value": 0.4849}, "age 0.4849"),
        ({"value": -12345.678}, "age -1.235e+04"),
        ({}, "age"),
    ],
)
def test_a_class_has_a_probability_and_a_regression_a_value(target: dict[str, float], text: str) -> None:
    shown = Target.model_validate({"index": 0, "label": "age", **target})

    assert class_text(Row(item="a", index=0, method="lime", rank=0, status="succeeded", target=shown)) == text


def test_a_row_of_an_earlier_version_is_read() -> None:
    assert Target.model_validate_json('{"index": 1, "label": "cat", "probability": 0.5}').value is None
