"""Results as Markdown: one table for each section, one column for each field."""

from collections.abc import Mapping, Sequence
from typing import Any

Results = dict[str, Any]


def markdown(results: Results, minutes: float) -> str:
    """All sections that were measured, below the machine's name."""
    where = results["machine"]
    libraries = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    ran = (
        f"{where['processor']}, {where['cores']} cores, {where['threads']} threads, {where['instructions']}, "
        f"{where['memory_gib']} GiB, accelerator: {where['accelerator'] or 'none'}. {where['system']}. {libraries}. "
        f"All in one run of {minutes:.1f} minutes."
    )
    lines = ["# Benchmarks", "", ran]
    for section, found in results.items():
        if section != "machine" and found:
            rows = [found] if isinstance(found, Mapping) else found
            lines += ["", f"## {section.replace('_', ' ').capitalize()}", "", *table(rows)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The rows with a column for each field that any of them has."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    right = [any(isinstance(row.get(field), (int, float)) for row in rows) for field in fields]
    return [
        "| " + " | ".join(field.replace("_", " ") for field in fields) + " |",
        "|" + "|".join("---:" if number else "---" for number in right) + "|",
        *("| " + " | ".join(_cell(row.get(field)) for field in fields) + " |" for row in rows),
    ]


def _cell(value: object) -> str:
    """Numbers with three significant digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
