"""Wait for a job in front of somebody, who may tire of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from heatmill.cli.connection import Exit
from heatmill.cli.progress import job_progress
from heatmill.client.client import Client
from heatmill.schemas import Job


def wait_for(client: Client, job_id: str, *, quiet: bool) -> Job:
    """Wait until a job is done, showing its progress."""
    with job_progress(quiet=quiet) as on_progress:
        return client.wait(job_id, on_progress)


@contextmanager
def interruptible(job_id: str) -> Iterator[None]:
    """Let Ctrl-C end the waiting, and say that the job goes on.

    Raises:
        click.exceptions.Exit: After Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        click.echo(
            f"\njob {job_id} goes on: `heatmill status {job_id}` shows how far it is, "
            f"`heatmill cancel {job_id}` stops it",
            err=True,
        )
        raise click.exceptions.Exit(Exit.INTERRUPTED) from error
