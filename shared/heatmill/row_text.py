"""A result in words, for tables and galleries."""

from heatmill.schemas import Row

# The check that the verdict is about; others say how it was come by.
FIRST = "completeness_error"


def class_text(row: Row) -> str:
    """The explained class."""
    return "" if row.target is None else row.target.label


def probability_text(row: Row) -> str:
    """The explained class's probability."""
    return "" if row.target is None else f"{row.target.probability:.1%}"


def checks_text(row: Row) -> str:
    """The verdict, and the measurements behind it; or why there is no result."""
    if row.error is not None:
        return f"failed: {row.error.detail or row.error.title}"
    checks = sorted(row.checks.items(), key=lambda check: check[0] != FIRST)
    measured = [f"{name.replace('_', ' ')} {_value(name, value)}" for name, value in checks]
    return ", ".join(filter(None, (row.verdict, *measured)))


def _value(name: str, value: object) -> str:
    if name == FIRST and isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
