"""What a stack consists of, in the order in which its parts stand on each other."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from heatmill.local import services
from heatmill.local.data_folder import StackState
from heatmill.local.environment import inherited, of_services
from heatmill.local.ports import LOOPBACK
from heatmill.local.servers.redis import redis_answers, redis_server, redis_url
from heatmill.local.servers.seaweedfs import REGION, endpoint, object_store
from heatmill.local.supervisor import Part

BUCKET = "heatmill"
SOURCES = "sources"
# The work of a worker that is cut short is done again after the next start.
WORKER_GRACE_SECONDS = 5.0
API_GRACE_SECONDS = 5.0
SERVER_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class StackOptions:
    """What an operator chooses.

    Args:
        data_dir: Where everything is kept; None is a temporary folder that is removed at the end.
        port: Of the API; another one is chosen where it is taken.
        workers: Explain workers.
        models_file: The operator's models.toml.
        services: Whether API and workers run too; else the servers alone.
    """

    data_dir: Path | None = Path(".heatmill")
    port: int = 8000
    workers: int = 1
    models_file: Path | None = None
    services: bool = True


@dataclass(frozen=True)
class Layout:
    """Where the parts of one stack are, and what they are told."""

    options: StackOptions
    folder: Path
    port: int
    remembered: StackState = field(repr=False)

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def logs(self) -> Path:
        """One file per part."""
        return self.folder / "logs"

    @property
    def settings(self) -> dict[str, str | None]:
        """Fields of `Settings` that the stack decides, as text."""
        models = self.options.models_file
        return {
            "redis_url": redis_url(self.remembered.redis_port, self.remembered.redis_password),
            "s3_endpoint": endpoint(self.remembered.object_store_ports.s3),
            "s3_public_endpoint": None,
            "s3_region": REGION,
            "bucket": BUCKET,
            "source_prefixes": json.dumps([f"s3://{SOURCES}/"]),
            **({} if models is None else {"models_file": str(models.absolute())}),
        }

    @property
    def environment(self) -> dict[str, str]:
        """Of API and workers, and of whoever wants to reach the same services."""
        return of_services(self.settings, self.remembered.credentials.environment)

    def servers(self, buckets_answer: Callable[[], bool]) -> list[Part]:
        """Redis and the object store.

        Raises:
            ProgramMissing: One is not installed.
        """
        known = self.remembered
        url = redis_url(known.redis_port, known.redis_password)
        memory = redis_server(self.folder / "redis", known.redis_port, known.redis_password, inherited())
        store = object_store(self.folder / "objects", known.object_store_ports, known.credentials, inherited())
        return [
            Part(memory, SERVER_GRACE_SECONDS, partial(redis_answers, url)),
            Part(store, SERVER_GRACE_SECONDS, buckets_answer),
        ]

    def api(self) -> list[Part]:
        """The HTTP API."""
        program = services.api(self._run_folder, self.port, self.environment)
        return [Part(program, API_GRACE_SECONDS, partial(services.api_answers, self.port))]

    def explain_workers(self) -> list[Part]:
        """As many as were asked for."""
        return [
            Part(services.explain_worker(number, self._run_folder, self.environment), WORKER_GRACE_SECONDS)
            for number in range(1, self.options.workers + 1)
        ]

    def control_worker(self) -> list[Part]:
        """One."""
        return [Part(services.control_worker(self._run_folder, self.environment), WORKER_GRACE_SECONDS)]

    @property
    def _run_folder(self) -> Path:
        """An empty folder to run in: `python -m` would import what lies there."""
        folder = self.folder / "run"
        folder.mkdir(exist_ok=True)
        return folder
