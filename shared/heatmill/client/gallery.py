"""A page that shows what a job made of its images; needs nothing but the files beside it."""

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from itertools import groupby, islice
from pathlib import Path
from string import Template
from urllib.parse import quote

from heatmill.client.downloads import FetchedRow, read_fetched, whole_file
from heatmill.client.result_text import checks_text, class_text, verdict_text
from heatmill.schemas import Job

PAGE = "index.html"
MAP = "map.png"
# Browsers get slow beyond some thousand pictures.
MAX_ITEMS = 200
COMPLETENESS = (
    "Completeness error: a heatmap's values should add up to the change in score that it explains; this is by how much "
    "they miss it. Where that is too much, the heatmap is marked imprecise; more steps help."
)
BLANK = (
    "Blank: the method found nothing that speaks for the class, or nothing that changes its score, so that the heatmap "
    "is empty. An empty heatmap says nothing about the image."
)


def write_gallery(directory: Path, job: Job) -> Path:
    """Write `index.html` about the results that were fetched into a folder with their overlays.

    Raises:
        OSError: The folder does not hold fetched results, or cannot be written.
    """
    items = (list(rows) for _, rows in groupby(_rows(directory, job), key=lambda row: row.index))
    shown = list(islice(items, MAX_ITEMS))
    left_out = sum(1 for _ in items)
    rows = [row for item in shown for row in item]
    page = _template().substitute(
        title="What the model looked at",
        summary=escape(_summary(job)),
        legend="\n".join(_legend(rows)),
        sections="\n".join([*_map(directory, job), *map(_section, shown)]),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in _notes(job, rows, left_out)),
    )
    with whole_file(directory / PAGE) as file:
        file.write(page.encode())
    return directory / PAGE


def _rows(directory: Path, job: Job) -> Iterator[FetchedRow]:
    """What was fetched, but for the points of the map, which have no pictures of their own."""
    method = job.map and job.map.method
    return (row for row in read_fetched(directory) if row.method != method or row.error is not None)


def _template() -> Template:
    return Template(files("heatmill.client").joinpath("gallery.html").read_text("utf-8"))


def _summary(job: Job) -> str:
    methods = ", ".join(method.name for method in job.methods) or "a map"
    failed = f", {job.counts.failed} failed" if job.counts.failed else ""
    return f"{job.model}, explained by {methods}. {job.counts.succeeded} results{failed}."


def _legend(rows: list[FetchedRow]) -> Iterator[str]:
    """What the colours say; a heatmap whose zero is not at the palette's start has a sign."""
    signs = {row.heatmap.zero_index > 0 for row in rows if row.heatmap is not None}
    if False in signs:
        yield '<span>matters little<i class="magnitude"></i>matters much</span>'
    if True in signs:
        is_value = any(row.target is not None and row.target.probability is None for row in rows)
        low, high = ("lowers the value", "raises the value") if is_value else ("against the class", "for the class")
        yield f'<span>{low}<i class="signed"></i>{high}</span>'


def _notes(job: Job, rows: list[FetchedRow], left_out: int) -> Iterator[str]:
    if left_out:
        yield f"{left_out} more items are not shown here."
    if any("completeness_error" in row.checks for row in rows):
        yield COMPLETENESS
    if any(row.verdict == "blank" for row in rows):
        yield BLANK
    yield f"Job {job.id}, {job.created_at:%Y-%m-%d %H:%M} UTC. results.jsonl says what is what, and how it was made."


def _map(directory: Path, job: Job) -> Iterator[str]:
    """The job's map, where it was fetched."""
    if job.map is not None and job.map.state == "ready" and (directory / MAP).is_file():
        picture = f'<a href="{MAP}">{_image(MAP, "Map of the images")}</a>'
        text = "Each point is an image; near each other are those that the model sees as alike. map.json says how well."
        yield f'<section class="map">\n<h2>Map</h2>\n{picture}\n<p>{escape(text)}</p>\n</section>'


def _section(rows: list[FetchedRow]) -> str:
    """One item: its photo, then its results."""
    classes = dict.fromkeys(class_text(row) for row in rows if row.target is not None)
    heading = f"<h2>{escape(rows[0].item)} <small>{escape(', '.join(classes))}</small></h2>"
    if all(row.error is not None for row in rows):
        content = "\n".join(
            f'<p class="failed">{escape(reason)}</p>' for reason in dict.fromkeys(map(verdict_text, rows))
        )
    else:
        figures = [*_photo(rows), *(_result(row, names_class=len(classes) > 1) for row in rows)]
        content = '<div class="pictures">\n' + "\n".join(figures) + "\n</div>"
    return f"<section>\n{heading}\n{content}\n</section>"


def _photo(rows: list[FetchedRow]) -> Iterator[str]:
    if name := rows[0].files.get("photo"):
        read = next((row.image for row in rows if row.image), None)
        said = "; ".join(["as the model saw it", *(read.notes if read else ())])
        yield _figure(_image(name, f"{rows[0].item}, as the model saw it"), "Photo", said, "")
    elif missing := rows[0].photo_missing:
        yield _figure('<div class="missing">no photo</div>', "Photo", missing, "")


def _result(row: FetchedRow, *, names_class: bool) -> str:
    title = f"{row.method}: {row.target.label}" if names_class and row.target else row.method
    name = row.files.get("overlay") or row.files.get("heatmap")
    picture = _image(name, f"{row.method} of {row.item}") if name else '<div class="missing">no heatmap</div>'
    return _figure(picture, title, checks_text(row), "failed" if row.error else row.verdict or "")


def _figure(picture: str, title: str, note: str, style: str) -> str:
    caption = f'<b>{escape(title)}</b><span class="{style}">{escape(note)}</span>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _image(name: str, alternative: str) -> str:
    return f'<img src="{escape(quote(name))}" alt="{escape(alternative)}" loading="lazy">'
