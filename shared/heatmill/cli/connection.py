"""Which service a command talks to, and how its failures become exit codes and one clear message."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from functools import wraps
from typing import Any, NoReturn

import click

from heatmill.client.client import DEFAULT_URL, Client
from heatmill.errors import HeatmillError, RequestError, ServiceUnavailable
from heatmill.printable import printable
from heatmill.schemas import Job

Command = Callable[..., Any]
MAX_FAULTS = 10


class Exit(IntEnum):
    """Exit codes; click uses 2 for a wrong command line by itself."""

    SUCCEEDED = 0
    SOME_FAILED = 1
    WRONG_REQUEST = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


@dataclass(frozen=True)
class Service:
    """The service that a command line names."""

    url: str
    api_key: str | None = field(repr=False)


def service_options(command: Command) -> Command:
    """Give a command the options `--url` and `--api-key`, as its argument `service`."""

    @wraps(command)
    def with_service(*arguments: Any, url: str, api_key: str | None, **options: Any) -> Any:
        return command(*arguments, service=Service(url, api_key), **options)

    url = click.option(
        "--url", envvar="HEATMILL_URL", default=DEFAULT_URL, show_default=True, show_envvar=True, help="The service."
    )
    key = click.option("--api-key", envvar="HEATMILL_API_KEY", show_envvar=True, help="For services that ask for one.")
    return url(key(with_service))


def json_option(command: Command) -> Command:
    """Give a command the option `--json`, as its argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(command)


@contextmanager
def connected(service: Service) -> Iterator[Client]:
    """A client whose errors end the program.

    Raises:
        click.exceptions.Exit: With the code that says who must act.
    """
    with failures_as_exit_codes(), Client(service.url, service.api_key) as client:
        yield client


@contextmanager
def failures_as_exit_codes() -> Iterator[None]:
    """End the program with one clear message instead of a traceback.

    Raises:
        click.exceptions.Exit: With the code that says who must act.
    """
    try:
        yield
    except RequestError as error:
        fail(_with_faults(error), Exit.WRONG_REQUEST)
    except ServiceUnavailable as error:
        hint = "Is it running? `heatmill up` starts one on this machine; --url or HEATMILL_URL names another"
        fail(f"{error}\n  {hint}", Exit.UNREACHABLE)
    except HeatmillError as error:
        fail(str(error), Exit.UNREACHABLE)
    except BrokenPipeError:
        # Whoever read our output has had enough; click knows how to end then.
        raise
    except OSError as error:
        fail(": ".join(filter(None, (str(error.filename or ""), error.strerror or str(error)))), Exit.WRONG_REQUEST)


def fail(message: str, code: Exit) -> NoReturn:
    """Say why on stderr, and end the program.

    Raises:
        click.exceptions.Exit: With the code.
    """
    # The lines are ours; what stands in them may be a name from outside.
    click.echo("\n".join(map(printable, f"Error: {message}".split("\n"))), err=True)
    raise click.exceptions.Exit(code)


def end_as(job: Job) -> NoReturn:
    """End the program with what a script wants to know of a job; one that still runs has not failed.

    Raises:
        click.exceptions.Exit: With the code.
    """
    has_failed = job.state in {"partly_failed", "failed", "cancelled"} or (job.map and job.map.state == "failed")
    raise click.exceptions.Exit(Exit.SOME_FAILED if has_failed else Exit.SUCCEEDED)


def _with_faults(error: RequestError) -> str:
    """Title and detail, and where in the request each fault is."""
    faults = [fault for fault in (_fault(entry, str(error)) for entry in error.errors) if fault]
    more = [f"... and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
    return "\n  ".join([f"{error.title}: {error}", *faults[:MAX_FAULTS], *more])


def _fault(entry: dict[str, object], told: str) -> str:
    """One fault: where it is, and what it is unless that has been told."""
    place = f"line {entry['line']}" if "line" in entry else str(entry.get("pointer") or entry.get("parameter") or "")
    detail = str(entry.get("detail", ""))
    parts = (f"at {place}" if place else "", "" if detail in told else detail)
    return ": ".join(filter(None, parts))
