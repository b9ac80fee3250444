"""`heatmill demo`: the real service, started for four photos, and a page that shows what it makes of them."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heatmill.catalogue.models import BUNDLED_MODEL
from heatmill.cli.connection import Exit, end_as, fail, failures_as_exit_codes, json_option
from heatmill.cli.local_stack import running_stack, wait_until_stopped
from heatmill.cli.output import print_job_and_rows, print_rows
from heatmill.cli.waiting import wait_for
from heatmill.client.client import Client
from heatmill.client.downloads import read_fetched
from heatmill.client.gallery import PAGE, write_gallery
from heatmill.schemas import Job

if TYPE_CHECKING:
    from heatmill.local.stack import Stack

METHODS = ("saliency", "integrated_gradients", "grad_cam")
PHOTOS = ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")

Say = Callable[[str], None]


@click.command()
@json_option
@click.option("--keep", is_flag=True, help="Leave the service running until Ctrl-C, to try more.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("heatmill-demo"),
    show_default=True,
    help="Gets the heatmaps and index.html.",
)
def demo(*, as_json: bool, keep: bool, output: Path) -> None:
    """Start the service, explain four photos in three ways, and show where to look."""
    say: Say = _silent if as_json else _say
    with failures_as_exit_codes():
        photos = bundled_photos()
        say("Starting Redis, SeaweedFS, the API and a worker ...")
        with running_stack(say, data_dir=None) as stack:
            job = _explain(stack, photos, output, quiet=as_json)
            _show(job, output, as_json=as_json)
            if keep:
                _invite(stack, say)
                wait_until_stopped(stack)
    end_as(job)


def bundled_photos() -> dict[str, Path]:
    """The demo's photos, out of scikit-image, which is found without being imported.

    Raises:
        click.exceptions.Exit: It is not installed.
    """
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        fail("the demo's photos come with scikit-image: pip install 'heatmill[local]'", Exit.UNREACHABLE)
    folder = Path(package.submodule_search_locations[0]) / "data"
    return {name: folder / name for name in PHOTOS}


def _explain(stack: "Stack", photos: dict[str, Path], output: Path, *, quiet: bool) -> Job:
    with Client(stack.url) as client:
        submitted = client.submit(BUNDLED_MODEL, METHODS, images=photos)
        job = wait_for(client, submitted.id, quiet=quiet)
        client.fetch(job.id, output, overlay=True)
    write_gallery(output, job)
    return job


def _show(job: Job, output: Path, *, as_json: bool) -> None:
    rows = list(read_fetched(output))
    if as_json:
        print_job_and_rows(job, rows)
        return
    print_rows(rows)
    click.echo(f"\nHeatmaps and overlays are in {output}/. To look at them, open\n")
    click.echo(f"    {(output / PAGE).resolve().as_uri()}\n")


def _invite(stack: "Stack", say: Say) -> None:
    say(f"The service runs at {stack.url} until Ctrl-C. In another terminal, try\n")
    url = "" if stack.url.endswith(":8000") else f" --url {stack.url}"
    say(f"    heatmill submit PHOTOS/ --method grad_cam --wait{url}")
    say(f"    heatmill methods{url}")
    say(f"    {stack.url}/docs")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _silent(line: str) -> None:
    """With --json nothing is said."""
