"""One rule says whether attributions are complete."""

import pytest

from heatmill_workers.methods.self_check import SMALLEST_DIFFERENCE, TOLERATED_ERROR, completeness


@pytest.mark.parametrize(
    ("total", "difference", "error", "verdict"),
    [
        (2.0, 2.0, 0.0, "ok"),
        (-1.98, -2.0, 0.01, "ok"),
        (1.0, 2.0, 0.5, "imprecise"),
        (2.0, -2.0, 2.0, "imprecise"),
        (2.0 * (1 - 2 * TOLERATED_ERROR), 2.0, 2 * TOLERATED_ERROR, "imprecise"),
    ],
)
def test_the_error_is_relative_to_the_change_of_the_logit(
    total: float, difference: float, error: float, verdict: str
) -> None:
    measured = completeness(total, difference)

    assert measured.checks == pytest.approx({"completeness_error": error, "logit_difference": difference})
    assert measured.verdict == verdict


def test_where_there_is_nothing_to_share_out_the_error_stays_finite_and_is_not_trusted() -> None:
    measured = completeness(0.0, SMALLEST_DIFFERENCE / 2)

    assert measured.checks["completeness_error"] == pytest.approx(0.5)
    assert completeness(0.0, 0.0).verdict == "imprecise"


def test_other_checks_are_kept() -> None:
    assert completeness(1.0, 1.0, steps=7).checks["steps"] == 7
