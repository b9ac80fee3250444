"""Every benchmark by one command: `python -m benchmarks [--quick] [--only SECTION]`.

A section is a module of this package with a function `measure(quick)`. What it returns stands under the section's name
in `results/full.json` or `results/quick.json`, and as a table in the Markdown file beside it.
"""

import argparse
import json
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.report import Results, markdown

RESULTS = Path(__file__).parent / "results"
# In the order in which they run, with what a section that was not asked for leaves.
SECTIONS: dict[str, list[object] | dict[str, object]] = {
    "methods": [],
    "pipeline": [],
    "latency": {},
    "control_plane": [],
}


def main() -> None:
    """Run what is asked for, write both files, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images and sizes: under 5 minutes on two cores")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; may be given several times")
    parser.add_argument("--into", type=Path, default=RESULTS, help="the folder for the files")
    asked = parser.parse_args()
    started = time.monotonic()
    results: Results = {"machine": machine()}
    for section, nothing in SECTIONS.items():
        wanted = section in (asked.only or SECTIONS) and find_spec(f"benchmarks.{section}")
        results[section] = import_module(f"benchmarks.{section}").measure(quick=asked.quick) if wanted else nothing
    text = markdown(results, minutes=(time.monotonic() - started) / 60)
    asked.into.mkdir(parents=True, exist_ok=True)
    name = "quick" if asked.quick else "full"
    (asked.into / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (asked.into / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
