"""The objects of some jobs as a version of heatmill stored them, kept as files: each later version reads them.

`pytest tests/workers/stored.py` writes those of today's version: once for each new format.
"""

from pathlib import Path

from heatmill.jobs.documents import FORMAT
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from heatmill_workers.control.finish import finish
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.workers.jobs import sent
from tests.workers.photos import noise
from tests.workers.processed import control_of, planned

FOLDER = Path(__file__).parent / "stored_objects"
TENANT = "kept"
ITEMS = 4
TSNE = {"method": "tsne", "perplexity": 5, "seed": 1}


def folder(stored_format: int = FORMAT) -> Path:
    """Where the objects of a format are kept."""
    return FOLDER / f"format-{stored_format}"


def load(storage: S3Storage, stored_format: int = FORMAT) -> dict[str, JobId]:
    """Put the kept objects into a bucket; gives the jobs by their names."""
    root = folder(stored_format)
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != "jobs.txt":
            storage.put(str(path.relative_to(root)), path.read_bytes())
    lines = (root / "jobs.txt").read_text().splitlines()
    return {name: JobId(TENANT, job) for name, job in map(str.split, lines)}


def make(worker: WorkerContext) -> dict[str, JobId]:
    """A job that is done, with its map, and one half of whose shards are, for each layout."""
    photos = {f"photo {seed}": noise(seed) for seed in range(ITEMS)}
    methods = [{"name": "saliency"}, {"name": "attention"}]
    found: dict[str, JobId] = {}
    for layout in ("objects", "webdataset"):
        done = planned(worker, TENANT, photos, shard_items=2, methods=methods, layout=layout, map=TSNE)
        for unit in range(3):
            process_shard(worker, done, unit)
        finish(control_of(worker), done)
        half = planned(worker, TENANT, photos, shard_items=2, methods=methods, layout=layout)
        process_shard(worker, half, 0)
        found |= {f"{layout}-done": done, f"{layout}-half": half}
    sent(worker.state)
    return found


def keep(storage: S3Storage, jobs: dict[str, JobId]) -> None:
    """Write all that the bucket holds as files."""
    root = folder()
    for prefix in (f"{TENANT}/jobs/", f"{TENANT}/blobs/", "open/"):
        for entry in storage.list(prefix):
            path = root / entry.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.get(entry.key))
    (root / "jobs.txt").write_text("".join(f"{name} {job.job}\n" for name, job in jobs.items()))


def test_keep(worker: WorkerContext) -> None:
    """Run by name only."""
    keep(worker.storage, make(worker))
