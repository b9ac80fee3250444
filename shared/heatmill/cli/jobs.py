"""Commands that act on a job: `submit`, `cancel`, `retry`, `delete`, `fetch`."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack, get_args

import click

from heatmill.catalogue.models import BUNDLED_MODEL
from heatmill.cli.connection import Service, connected, end_as, json_option, service_options
from heatmill.cli.folders import left_out_text
from heatmill.cli.inputs import parse_map, parse_metadata, parse_method, parse_target, read_inputs
from heatmill.cli.output import print_job, print_job_and_rows, print_json, warn
from heatmill.cli.progress import count_progress
from heatmill.cli.waiting import interruptible, wait_for
from heatmill.client.client import Client
from heatmill.client.downloads import read_fetched
from heatmill.client.gallery import write_gallery
from heatmill.client.submission import SubmitOptions
from heatmill.schemas import MAX_TOP_K, Job, Layout

# Images that `fetch` names one by one.
MISSING_SHOWN = 10


class Submission(TypedDict):
    """The options of `submit`, as click names them."""

    images: tuple[str, ...]
    model: str
    methods: tuple[str, ...]
    map_text: str | None
    target: str | None
    top_k: int | None
    layout: Any
    priority: Any
    metadata: tuple[str, ...]
    uses_cache: bool
    previews: bool


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="PATH|URI...")
@click.option("--model", default=BUNDLED_MODEL, show_default=True, help="One of `heatmill models`.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,...]",
    help="One of `heatmill methods`; may be given more than once. Values are JSON, or else text up to the next comma; "
    'text with commas goes in double quotes: name:param="a,b".',
)
@click.option(
    "--map",
    "map_text",
    metavar="tsne[:PARAM=VALUE,...]",
    help="Also lay all images out as one map; params are perplexity and seed. Needs no --method.",
)
@click.option("--target", help="Class to explain, index or label; by default the predicted one.")
@click.option("--top-k", type=click.IntRange(1, MAX_TOP_K), help="Explain this many of the most probable classes.")
@click.option(
    "--layout",
    type=click.Choice(get_args(Layout)),
    default="objects",
    show_default=True,
    help="How results are stored: each file by itself, or a tar for each run of up to 64 items, for webdataset.",
)
@click.option(
    "--priority", type=click.Choice(["interactive", "normal", "bulk"]), help="By default after the job's size."
)
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Kept with the job; may be given more than once.")
@click.option(
    "--previews/--no-previews",
    default=True,
    help="Whether to keep what the model saw of each image, for overlays. Kept by default.",
)
@click.option(
    "--cache/--no-cache",
    "uses_cache",
    default=True,
    help="Whether to take what earlier jobs made of the same images in the same way. Taken by default.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the job is done.")
@json_option
@service_options
def submit(service: Service, *, waits: bool, as_json: bool, **given: Unpack[Submission]) -> None:
    """Explain images.

    PATH is an image, a folder, whose images are all taken, or a .jsonl manifest of {"id", "image", "target"} lines.
    Of one folder, an image's id is its path from there on; of several PATHs, each id begins with its PATH.
    URI is upload://SHA256 or s3://BUCKET/KEY for one image, s3://BUCKET/PREFIX/ or s3://.../MANIFEST.jsonl for many.
    Files are uploaded by their content, once.
    """
    with connected(service) as client:
        job = _submit(client, given, quiet=as_json)
        if waits:
            if not as_json:
                click.echo(f"job {job.id}", err=True)
            with interruptible(job.id):
                job = wait_for(client, job.id, quiet=as_json)
        _print_submitted(client, job, waited=waits, as_json=as_json)
    if waits:
        end_as(job)


@click.command()
@click.argument("job")
@json_option
@service_options
def cancel(job: str, service: Service, *, as_json: bool) -> None:
    """Stop a job; what is done stays."""
    with connected(service) as client:
        cancelled = client.cancel(job)
    (print_json if as_json else print_job)(cancelled)


@click.command()
@click.argument("job")
@click.option("--wait", "waits", is_flag=True, help="Wait until the new job is done.")
@json_option
@service_options
def retry(job: str, service: Service, *, waits: bool, as_json: bool) -> None:
    """Run the failed items of a job again, as a new job."""
    with connected(service) as client:
        again = client.retry(job)
        if waits:
            with interruptible(again.id):
                again = wait_for(client, again.id, quiet=as_json)
        _print_submitted(client, again, waited=waits, as_json=as_json)
    if waits:
        end_as(again)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@service_options
def delete(jobs: tuple[str, ...], service: Service) -> None:
    """Delete jobs that are done, with all their results."""
    with connected(service) as client:
        for job in jobs:
            client.delete(job)
            click.echo(f"deleted {job}", err=True)


@click.command()
@click.argument("job")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--overlay", is_flag=True, help="Also what the model saw, the heatmaps laid over it, and a gallery, index.html."
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the job is done; else fetch what is there.")
@service_options
def fetch(job: str, directory: Path, service: Service, *, overlay: bool, waits: bool) -> None:
    """Download heatmaps (PNG), attributions (.npy) and results.jsonl."""
    with connected(service) as client:
        with interruptible(job):
            current = wait_for(client, job, quiet=False) if waits else client.job(job)
        with count_progress("fetched", quiet=False) as tell:
            total = current.counts.done
            rows = client.fetch(job, directory, overlay=overlay, on_fetch=_counted(tell, total))
    if overlay:
        write_gallery(directory, current)
        _tell_missing_photos(directory)
    click.echo(f"{rows} results in {directory}/" + (f", look at {directory / 'index.html'}" if overlay else ""))
    if not current.done:
        click.echo("the job still runs; fetch again later, or with --wait", err=True)
    end_as(current)


def _tell_missing_photos(directory: Path) -> None:
    missing = {row.index: f"{row.item}: {row.photo_missing}" for row in read_fetched(directory) if row.photo_missing}
    for text in islice(missing.values(), MISSING_SHOWN):
        warn(f"no photo and no overlay of {text}")
    if len(missing) > MISSING_SHOWN:
        warn(f"no photo and no overlay of {len(missing) - MISSING_SHOWN} more images; results.jsonl says why")


def _submit(client: Client, given: Submission, *, quiet: bool) -> Job:
    """Read the command line and submit the job.

    Raises:
        click.BadParameter: Something on the command line is wrong.
    """
    if not given["methods"] and given["map_text"] is None:
        raise click.UsageError("give --method at least once, or --map")
    methods = [parse_method(text) for text in given["methods"]]
    if given["target"] is not None and given["top_k"] is not None:
        raise click.UsageError("give --target or --top-k: the classes to explain are named, or the most probable ones")
    options: SubmitOptions = {"target": parse_target(given["target"]), "metadata": parse_metadata(given["metadata"])}
    options |= {"map": parse_map(given["map_text"]), "cache": given["uses_cache"], "layout": given["layout"]}
    options["previews"] = given["previews"]
    if given["top_k"] is not None:
        options["top_k"] = given["top_k"]
    if given["priority"] is not None:
        options["priority"] = given["priority"]
    # On stderr, so also beside --json: the job's row for this item can only say that its image is not there.
    options["on_refused"] = lambda path, reason: warn(f"not uploaded: {path}: {reason}")
    inputs = read_inputs(given["images"])
    if inputs.left_out:
        warn(f"left out: {left_out_text(inputs.left_out)}")
    with count_progress("uploaded", quiet=quiet) as options["on_upload"]:
        return client.submit(given["model"], methods, items=inputs.items, source=inputs.source, **options)


def _print_submitted(client: Client, job: Job, *, waited: bool, as_json: bool) -> None:
    if as_json and waited:
        print_job_and_rows(job, client.results(job.id))
    elif as_json:
        print_json(job)
    else:
        print_job(job)
        click.echo(_next_step(job), err=True)


def _next_step(job: Job) -> str:
    if job.done:
        return f"`heatmill results {job.id}` shows the results, `heatmill fetch {job.id} DIR` downloads them"
    return f"`heatmill status {job.id}` shows how far it is"


def _counted(tell: Callable[[int, int], None] | None, total: int) -> Callable[[int], None] | None:
    # A job that runs may have more by now than when it was asked.
    return None if tell is None else lambda fetched: tell(fetched, max(fetched, total))
