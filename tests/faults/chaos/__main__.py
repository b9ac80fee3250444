"""A chaos run on a stack of its own: python -m tests.faults.chaos --seed N --minutes M."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from heatmill.coordination.job_store import open_state
from heatmill.local.environment import inherited
from heatmill.local.ports import free_ports
from heatmill.local.processes import running
from heatmill.local.servers.seaweedfs import Buckets, Credentials, ObjectStorePorts, endpoint, object_store
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage
from heatmill.storage.s3_client import boto_client
from tests.faults.chaos.running import run
from tests.faults.s3_proxy import S3Proxy
from tests.faults.service import Service, batch
from tests.faults.stack import START_SECONDS, Stack
from tests.faults.watching import Watcher

BUCKET = "chaos"


def main() -> int:
    """Run; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(3), "big"), help="a random one by default"
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"heatmill-chaos-{arguments.seed}-"))
    sys.stdout.write(f"seed {arguments.seed}, {arguments.minutes} minutes, in {folder}\n")
    sys.stdout.flush()
    with own_service(folder) as service:
        done = run(service, arguments.seed, arguments.minutes * 60, folder)
    sys.stdout.write(done.report() + "\n")
    return 1 if done.violations else 0


@contextmanager
def own_service(folder: Path) -> Iterator[Service]:
    """A whole stack; its store and its Redis too."""
    credentials = Credentials("chaos-access", "chaos-secret")
    os.environ.update(credentials.environment)  # noqa: TID251 - boto3 reads it, as in every entry point
    ports = ObjectStorePorts.choose()
    url = endpoint(ports.s3)
    with ExitStack() as open_parts:
        open_parts.callback(ports.remove_sockets)
        buckets = open_parts.enter_context(closing(Buckets(url, credentials, [BUCKET])))
        program = object_store(folder / "data", ports, credentials, inherited())
        open_parts.enter_context(running(program, folder / "store.log", buckets.answer, START_SECONDS))
        proxy = S3Proxy(free_ports(1)[0], ports.s3)
        proxy.start()
        open_parts.callback(proxy.stop)
        stack = Stack(folder, credentials, BUCKET, proxy)
        open_parts.callback(stack.stop)
        stack.supervise()
        state = open_state(stack.redis_url)
        open_parts.enter_context(closing(state.client))
        watcher = Watcher(stack.redis_url)
        watcher.start()
        open_parts.callback(watcher.stop)
        client = open_parts.enter_context(closing(boto_client(Settings(), url)))
        service = Service(stack, S3Storage(client, BUCKET), state, watcher, {})
        service.wait(service.submit(batch()))
        yield service


if __name__ == "__main__":
    sys.exit(main())
