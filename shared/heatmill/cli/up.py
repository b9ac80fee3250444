"""`heatmill up`: the whole service on this machine, until it is told to stop."""

from pathlib import Path

import click

from heatmill.cli.connection import failures_as_exit_codes
from heatmill.cli.local_stack import running_stack, wait_until_stopped


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Of the API.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".heatmill"),
    show_default=True,
    help="Keeps jobs, heatmaps and logs.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Explain workers.")
@click.option(
    "--models",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A models.toml that adds models.",
)
def up(port: int, data_dir: Path, workers: int, models: Path | None) -> None:
    """Run the whole service on this machine, on loopback only.

    Prints `ready URL` when it takes jobs, and runs until Ctrl-C.
    """
    with (
        failures_as_exit_codes(),
        running_stack(_say, data_dir=data_dir, port=port, workers=workers, models=models) as stack,
    ):
        click.echo(f"ready {stack.url}")
        from heatmill.local.health import faults_told

        with faults_told(stack.url, _say):
            wait_until_stopped(stack)


def _say(line: str) -> None:
    click.echo(line, err=True)
