"""`python -m tests.simulation --seeds 1000`, or `--seed 17` for the trace of one."""

import argparse
import sys
from multiprocessing import get_context
from os import execve

import click

from heatmill.local.environment import inherited
from tests.simulation.seeds import simulate, trace_of

PROCESSES = 2


def main() -> int:
    """Run seeds; 1 where one finds something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    if inherited().get("PYTHONHASHSEED") != "0":
        execve(  # noqa: S606 - itself
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**inherited(), "PYTHONHASHSEED": "0"},
        )
    if asked.seed is not None:
        trace, wrong = trace_of(asked.seed)
        click.echo("\n".join([*trace, *wrong]))
        return bool(wrong)
    shares = [range(asked.first + number, asked.first + asked.seeds, PROCESSES) for number in range(PROCESSES)]
    with get_context("spawn").Pool(PROCESSES) as pool:
        found = {seed: wrong for part in pool.imap(simulate, shares) for seed, wrong in part.items()}
    for seed, wrong in sorted(found.items()):
        click.echo("\n    ".join([f"make simulate SEED={seed}:", *wrong]))
    click.echo(f"{asked.seeds} seeds, {len(found)} with faults")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
