"""The command line: `heatmill up`, `demo`, `submit` and what follows a submission."""

from heatmill.cli.commands import main

__all__ = ["main"]
