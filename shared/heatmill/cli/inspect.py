"""Commands that only look: `status`, `results`, `jobs`."""

from itertools import islice
from typing import get_args

import click

from heatmill.cli.connection import Service, connected, end_as, json_option, service_options
from heatmill.cli.inputs import parse_metadata
from heatmill.cli.output import print_job, print_job_and_rows, print_json, print_rows, print_table
from heatmill.schemas import Job, JobState


@click.command()
@click.argument("job")
@json_option
@service_options
def status(job: str, service: Service, *, as_json: bool) -> None:
    """Show how far a job is."""
    with connected(service) as client:
        current = client.job(job)
    (print_json if as_json else print_job)(current)
    end_as(current)


@click.command()
@click.argument("job")
@json_option
@service_options
def results(job: str, service: Service, *, as_json: bool) -> None:
    """Show a job's results, while it runs too."""
    with connected(service) as client:
        current = client.job(job)
        rows = client.results(job)
        if as_json:
            print_job_and_rows(current, rows)
        else:
            print_rows(rows)
            print_job(current)
    end_as(current)


@click.command()
@click.option("--state", type=click.Choice(get_args(JobState)), help="Only jobs in this state.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Only jobs with this; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@json_option
@service_options
def jobs(service: Service, *, state: JobState | None, metadata: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    with connected(service) as client:
        listed = list(islice(client.jobs(state, parse_metadata(metadata)), limit))
    if as_json:
        print_json(listed)
    else:
        print_table(("job", "state", "done", "model", "methods", "created"), map(_cells, listed))


def _cells(job: Job) -> tuple[str, ...]:
    total = "?" if job.counts.total is None else job.counts.total
    methods = ", ".join([*(method.name for method in job.methods), *([f"map {job.map.method}"] if job.map else [])])
    created = f"{job.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
    return job.id, job.state, f"{job.counts.done}/{total}", job.model, methods, created
