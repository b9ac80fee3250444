"""The group of commands; each is imported from the file that holds it."""

import click

from heatmill.cli.catalogue import methods, models
from heatmill.cli.demo import demo
from heatmill.cli.inspect import jobs, results, status
from heatmill.cli.jobs import cancel, delete, fetch, retry, submit
from heatmill.cli.up import up

# The backspace keeps click from filling the paragraph.
HELP = """Explain what image classifiers look at: batches of images in, heatmaps out.

\b
heatmill demo                                      see it work on this machine
heatmill up                                        run the service on this machine
heatmill submit photos/ --method grad_cam --wait   explain a folder of images
heatmill fetch JOB heatmaps/ --overlay             download what came of it

Exit codes: 0 all succeeded, 1 some items failed or the job was cancelled, 2 the request was wrong, 3 the service could
not be reached.
"""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="heatmill")
def main() -> None:
    """Read the command line."""


for command in (up, demo, submit, status, results, cancel, retry, delete, fetch, jobs, methods, models):
    main.add_command(command)
