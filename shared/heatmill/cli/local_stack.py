"""The embedded stack, for the commands that run one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from heatmill.cli.connection import Exit, fail

if TYPE_CHECKING:
    from heatmill.local.stack import Stack

Say = Callable[[str], None]


@contextmanager
def running_stack(
    say: Say, *, data_dir: Path | None, port: int = 8000, workers: int = 1, models: Path | None = None
) -> "Iterator[Stack]":
    """The whole service on this machine, stopped at the end, and on SIGTERM as on Ctrl-C.

    Args:
        say: Told what the stack has to say, a line each.
        data_dir: None is a temporary folder that is removed at the end.
        port: Of the API; another one is chosen where it is taken.
        workers: Explain workers.
        models: The operator's models.toml.

    Raises:
        click.exceptions.Exit: The stack is not installed.
        LocalStackError: A part cannot run.
    """
    try:
        from heatmill.local import interrupts
        from heatmill.local.layout import StackOptions
        from heatmill.local.stack import Stack
    except ModuleNotFoundError as error:
        fail(
            f"running the service here needs more than is installed ({error.name} is missing): "
            "pip install 'heatmill[local]'",
            Exit.UNREACHABLE,
        )
    options = StackOptions(data_dir=data_dir, port=port, workers=workers, models_file=models)
    with interrupts.raised_once(), Stack(options, say) as stack:
        yield stack


def wait_until_stopped(stack: "Stack") -> None:
    """Return on Ctrl-C or SIGTERM, which is how a stack is meant to end.

    Raises:
        LocalStackError: A part of it broke for good.
    """
    with suppress(KeyboardInterrupt):
        stack.wait()
