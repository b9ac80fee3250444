"""A result in words, for tables and galleries."""

from heatmill.schemas import Row

# The check that the verdict is about; the others say how it was come by.
FIRST = "completeness_error"
# What the model says of what the image is compared with.
BASELINE = ("baseline_class", "baseline_probability")


def class_text(row: Row) -> str:
    """The explained class and its probability, or the explained value."""
    target = row.target
    if target is None:
        return ""
    if target.probability is not None:
        return f"{target.label} {target.probability:.1%}"
    return target.label if target.value is None else f"{target.label} {target.value:.4g}"


def checks_text(row: Row) -> str:
    """The verdict, and the measurements behind it; or why there is no result."""
    others = (_check(name, value) for name, value in row.checks.items() if name not in {FIRST, *BASELINE})
    return ", ".join(filter(None, (verdict_text(row), *others, _baseline_text(row))))


def verdict_text(row: Row) -> str:
    """The verdict and what it is about; or why there is no result."""
    if row.error is not None:
        return f"failed: {row.error.detail or row.error.title}"
    error = row.checks.get(FIRST)
    return ", ".join(filter(None, (row.verdict, "" if error is None else _check(FIRST, error))))


def notes_text(row: Row) -> str:
    """How many notes there are on the reading of the image."""
    count = len(row.image.notes) if row.image else 0
    return "" if not count else f"{count} note{'s' * (count > 1)} on the image"


def _baseline_text(row: Row) -> str:
    label, probability = (row.checks.get(name) for name in BASELINE)
    return f"the baseline is {label} {probability:.1%}" if isinstance(probability, float | int) else ""


def _check(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if not isinstance(value, float):
        return f"{words} {value}"
    return f"{words} {value:.1%}" if name == FIRST else f"{words} {value:.3g}"
