"""A process that runs a stack, for tests that kill it: `python stack_process.py FOLDER servers|services`."""

import sys
from pathlib import Path

from heatmill.local.layout import StackOptions
from heatmill.local.stack import Stack


def main(folder: str, extent: str) -> None:
    """Run until Ctrl-C."""
    options = StackOptions(data_dir=Path(folder), port=0, services=extent == "services")
    tell("starting")
    with Stack(options, tell) as stack:
        tell(f"ready {stack.url}")
        stack.wait()


def tell(line: str) -> None:
    """One line to whoever reads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
