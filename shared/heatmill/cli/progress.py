"""How far long work is: a bar on a terminal, a line every few seconds elsewhere, nothing beside JSON. On stderr."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from heatmill.printable import printable
from heatmill.schemas import Job

LINE_SECONDS = 5.0

OnJob = Callable[[Job], None]
OnCount = Callable[[int, int], None]


@dataclass
class Lines:
    """Prints at most one line every few seconds, and the last one always."""

    console: Console
    _printed_at: float = -math.inf
    _printed: str = ""

    def show(self, text: str, *, is_last: bool) -> None:
        """Print a line, if it is time; the last one always, but not twice."""
        is_time = time.monotonic() - self._printed_at >= LINE_SECONDS
        if is_time or (is_last and text != self._printed):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._printed_at, self._printed = time.monotonic(), text


@contextmanager
def job_progress(*, quiet: bool) -> Iterator[OnJob | None]:
    """Show a job's progress to whoever waits; gives what `Client.wait` calls."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("queued", total=None, pace="")
            yield lambda job: bar.update(
                task,
                description=job.state,
                total=job.counts.total,
                completed=job.counts.done,
                pace=waits_for(job) or pace(job),
            )
    else:
        lines = Lines(console)
        yield lambda job: lines.show(line(job), is_last=job.done)


@contextmanager
def count_progress(what: str, *, quiet: bool) -> Iterator[OnCount | None]:
    """Show how many of a known number are done; gives a function of (done, total)."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(what, total=None, pace="")
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        lines = Lines(console)
        yield lambda done, total: lines.show(f"{what}: {done} of {total}", is_last=done == total)


def line(job: Job) -> str:
    """A job's progress in one line."""
    total = "?" if job.counts.total is None else job.counts.total
    failed = f"{job.counts.failed} failed" if job.counts.failed else ""
    cached = f"{job.counts.cached} from earlier jobs" if job.counts.cached else ""
    done = f"{job.state}: {job.counts.done} of {total} results"
    return ", ".join(filter(None, (done, failed, cached, pace(job), waits_for(job))))


def pace(job: Job) -> str:
    """Rate and time left, as far as they are known."""
    rate = f"{job.items_per_second:.3g} items/s" if job.items_per_second else ""
    left = f"{duration(job.eta_seconds)} left" if job.eta_seconds and not job.done else ""
    return ", ".join(filter(None, (rate, left)))


def waits_for(job: Job) -> str:
    """Why the job stands still, where it does."""
    return printable(f"{job.condition.type}: {job.condition.detail}") if job.condition else ""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = max(1, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        # What a store says may hold brackets.
        TextColumn("{task.fields[pace]}", markup=False),
        console=console,
    )
