"""One stack for all rows of the fault table, and the table of what each took to heal."""

from collections.abc import Generator, Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from mypy_boto3_s3 import S3Client

from heatmill.coordination.job_store import open_state
from heatmill.local.ports import free_ports
from heatmill.local.servers.seaweedfs import Credentials
from heatmill.storage.bucket import S3Storage
from tests.faults.s3_proxy import S3Proxy
from tests.faults.service import Service, batch
from tests.faults.stack import Stack
from tests.faults.watching import Watcher

RECOVERIES: dict[str, float] = {}
BUCKET = "faults"
LAST_LINES = 60


@pytest.fixture(scope="session")
def running_service(
    tmp_path_factory: pytest.TempPathFactory, s3_client: S3Client, object_store_url: str, credentials: Credentials
) -> Iterator[Service]:
    """The stack with its reference run behind it: all workers are warm."""
    s3_client.create_bucket(Bucket=BUCKET)
    proxy = S3Proxy(free_ports(1)[0], urlsplit(object_store_url).port or 0)
    stack = Stack(tmp_path_factory.mktemp("faults"), credentials, BUCKET, proxy)
    state = open_state(stack.redis_url)
    watcher = Watcher(stack.redis_url)
    with closing(state.client):
        try:
            proxy.start()
            stack.supervise()
            watcher.start()
            service = Service(stack, S3Storage(s3_client, BUCKET), state, watcher, RECOVERIES)
            service.reference(batch())
            yield service
        finally:
            watcher.stop()
            stack.stop()
            proxy.stop()


@pytest.fixture
def service(running_service: Service) -> Service:
    """The stack, whole."""
    running_service.clean()
    return running_service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes said last where a row fails; their logs go with the folder."""
    report = yield
    service = getattr(item, "funcargs", {}).get("service")
    if report.failed and isinstance(service, Service):
        for log in sorted(service.stack.folder.glob("*.log")):
            tail = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
            report.sections.append((log.name, "\n".join(tail)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how long each fault took to heal."""
    if RECOVERIES:
        terminalreporter.section("seconds from the end of the fault to the end of the job")
        for row, seconds in RECOVERIES.items():
            terminalreporter.write_line(f"{seconds:6.1f}  {row}")
