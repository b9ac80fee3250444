"""A process that runs a stack, for tests that kill it: `python stack_process.py FOLDER|temporary servers|services`."""

import sys
from pathlib import Path

from heatmill.cli.local_stack import wait_until_stopped
from heatmill.local import interrupts
from heatmill.local.layout import StackOptions
from heatmill.local.stack import Stack

TEMPORARY = "temporary"


def main(folder: str, extent: str) -> None:
    """Run until Ctrl-C or SIGTERM, as `heatmill up` does."""
    options = StackOptions(
        data_dir=None if folder == TEMPORARY else Path(folder), port=0, services=extent == "services"
    )
    tell("starting")
    with interrupts.raised_once(), Stack(options, tell) as stack:
        tell(f"ready {stack.url}")
        wait_until_stopped(stack)


def tell(line: str) -> None:
    """One line to whoever reads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
