"""A record that is damaged: whoever asked is told, and a control worker is asked to make it again."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flask import Flask, Response

from heatmill.errors import BeingRepaired, HeatmillError, QueueUnavailable, RecordDamaged
from heatmill.storage import keys
from heatmill_api.context import ApiContext, api_context
from heatmill_api.http.problems import problem_of


def install(app: Flask) -> None:
    """Answer for damaged records, whichever view meets them."""
    app.register_error_handler(RecordDamaged, _answer)


@contextmanager
def repaired(context: ApiContext) -> Iterator[None]:
    """Ask for a damaged record to be made again.

    Raises:
        BeingRepaired: It will be.
        RecordDamaged: It cannot be: it is the request of a job that is over.
    """
    try:
        yield
    except RecordDamaged as error:
        job = keys.owner(error.key)
        if error.key == keys.request(job) and context.storage.exists(keys.final(job)):
            raise
        ask_for_repair(context, error)
        raise BeingRepaired(f"{error}; it is made again") from error


def ask_for_repair(context: ApiContext, damaged: RecordDamaged) -> None:
    """Ring for a control worker; where Redis is away, the next caller does."""
    with suppress(QueueUnavailable):
        context.dispatcher.mend(keys.owner(damaged.key))


def _answer(error: RecordDamaged) -> Response:
    try:
        with repaired(api_context()):
            raise error
    except HeatmillError as told:
        return problem_of(told)
