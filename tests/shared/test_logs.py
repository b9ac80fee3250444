"""What libraries say of every message or request stays out of the log."""

import logging
from collections.abc import Iterator

import pytest

from heatmill.logs import SILENT, TALKATIVE, configure_logs


@pytest.fixture
def levels() -> Iterator[None]:
    """The levels and handlers as they were."""
    names = (None, *SILENT, *TALKATIVE)
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    handlers = logging.getLogger().handlers[:]
    yield
    for logger, level in before:
        logger.setLevel(level)
    logging.getLogger().handlers = handlers


@pytest.mark.usefixtures("levels")
def test_a_request_that_waits_for_a_thread_is_no_warning_and_a_failed_one_is_an_error() -> None:
    configure_logs()
    assert not logging.getLogger("waitress.queue").isEnabledFor(logging.WARNING)
    assert logging.getLogger("waitress").isEnabledFor(logging.ERROR)
    assert not logging.getLogger("botocore").isEnabledFor(logging.INFO)
