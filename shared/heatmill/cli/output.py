"""What commands print on stdout: JSON documents, and tables for people."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice

import click
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from heatmill.cli.progress import line
from heatmill.client.downloads import FetchedRow
from heatmill.client.result_text import class_text, notes_text, verdict_text
from heatmill.printable import printable
from heatmill.schemas import Job, Row

MAX_ROWS = 200
STATE_STYLES = {"succeeded": "green", "partly_failed": "yellow", "failed": "red", "cancelled": "yellow"}
VERDICT_STYLES = {"ok": "green", "imprecise": "yellow", "blank": "yellow"}
# What is piped is for grep: it is not folded to the width of a terminal that is not there.
PIPED_WIDTH = 240


def print_json(document: BaseModel | Sequence[BaseModel | dict[str, object]]) -> None:
    """Print one JSON document."""
    if isinstance(document, BaseModel):
        click.echo(document.model_dump_json())
        return
    entries = [entry.model_dump(mode="json") if isinstance(entry, BaseModel) else entry for entry in document]
    click.echo(json.dumps(entries, ensure_ascii=False))


def warn(text: str) -> None:
    """Say something on stderr; names of files in it do not command the terminal."""
    click.echo(printable(text), err=True)


def print_job_and_rows(job: Job, rows: Iterable[Row]) -> None:
    """Print `{"job": ..., "results": [...]}`, row by row: a job may have more rows than memory holds."""
    click.echo(f'{{"job": {job.model_dump_json()},\n"results": [', nl=False)
    for number, row in enumerate(rows):
        click.echo(f"{',' if number else ''}\n{row.model_dump_json()}", nl=False)
    click.echo("]}")


def print_rows(rows: Iterable[Row]) -> None:
    """Print a table of results."""
    shown = list(islice(rows, MAX_ROWS + 1))
    columns = ("item", "class", "method", "checks")
    with_files = any(isinstance(row, FetchedRow) for row in shown)
    print_table((*columns, "heatmap") if with_files else columns, map(_cells, shown[:MAX_ROWS]))
    if len(shown) > MAX_ROWS:
        click.echo(f"... and more than these {MAX_ROWS}; --json prints all, `heatmill fetch` downloads them")


def print_job(job: Job) -> None:
    """Print what a person wants to know of a job."""
    heading = Text.assemble((job.id, "bold"), "  ", line(job))
    heading.highlight_words([job.state], STATE_STYLES.get(job.state, ""))
    _console().print(heading, soft_wrap=True)
    if job.error is not None:
        click.echo(printable(f"{job.error.title}: {job.error.detail}"))
    if job.map is not None and job.map.error not in (None, job.error):
        click.echo(printable(f"{job.map.error.title}: {job.map.error.detail}"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table; cells are never read as rich's markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    _console().print(table)


def _cells(row: Row) -> tuple[str | Text, ...]:
    style = "red" if row.error is not None else VERDICT_STYLES.get(row.verdict or "", "")
    said = ", ".join(filter(None, (verdict_text(row), notes_text(row))))
    cells = (printable(row.item), class_text(row), row.method, Text(printable(said), style))
    return (*cells, row.files.get("heatmap", "")) if isinstance(row, FetchedRow) else cells


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)
