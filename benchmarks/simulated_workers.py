"""Explain workers without torch: they take messages, claim, wait, write a commit record and tell, as the real one does.

    python -m benchmarks.simulated_workers WORKERS SECONDS

Each is a thread with the real job store and object store; a shard costs it `SECONDS`, and its rows are made up. One
process runs as many as 64, since waiting costs nothing. It ends on SIGTERM, or when its input is closed, and then says
what it saw as one line of JSON.
"""

import base64
import hashlib
import json
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from heatmill.coordination.job_store import Claim, RedisJobStore, open_state
from heatmill.coordination.task_queue import EXPLAIN_QUEUE, Dispatcher, celery_app, lists
from heatmill.jobs import records
from heatmill.jobs.parts import Part, parts_of
from heatmill.schemas import CommitHeader, Item
from heatmill.settings import Settings
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage, WriteConflict, open_storage
from heatmill.storage.keys import JobId
from heatmill_workers.shard.lease import ClaimedShard, hold_lease

# A row as EfficientNet-Lite0 and saliency give it, but for what differs between items.
ROW = (
    '{"item":%s,"index":%d,"method":"saliency","rank":0,"status":"succeeded",'
    '"target":{"index":504,"label":"espresso","probability":0.84},'
    '"heatmap":{"key":"%sheatmaps/%06d/%04d.saliency.504.png","scale":0.001,"zero_index":128,"box":[0.0,0.0,224.0,224.0]},'
    '"attribution":{"key":"%sattributions/%06d/%04d.saliency.504.npy","shape":[3,224,224],"factor":0.01},'
    '"provenance":{"model":"efficientnet_lite0","weights_sha256":"' + 64 * "0" + '","device":"cpu","dtype":"float32",'
    '"versions":{"heatmill":"0.1.0","torch":"2.9.0","torchvision":"0.24.0","pillow":"12.3.0","numpy":"2.3.0",'
    '"scikit-image":"0.25.0"},"params":{}}}\n'
)
PATIENCE_SECONDS = 1


@dataclass
class Seen:
    """What the workers saw.

    Args:
        claims: When each shard was begun, on the machine's clock, and its job and number.
        idle: Seconds that a worker waited for each message.
    """

    claims: list[tuple[float, str]] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class SimulatedWorker:
    """One explain worker."""

    storage: S3Storage
    state: RedisJobStore
    dispatcher: Dispatcher
    seconds: float
    seen: Seen

    def run(self, stopped: threading.Event) -> None:
        """Take messages until stopped."""
        ready = time.monotonic()
        while not stopped.is_set():
            found = self.state.client.brpop(lists(EXPLAIN_QUEUE), PATIENCE_SECONDS)
            if found is None:
                continue
            now = time.monotonic()
            self.seen.idle.append(now - ready)
            self.process(*_ids(found[1]), now)
            ready = time.monotonic()

    def process(self, job: JobId, number: int, began: float) -> None:
        """What `process_shard` does, with a pause for the explaining."""
        claim = self.state.claim(job, number, uuid4().hex, 30)
        if not isinstance(claim, Claim):
            return
        self.seen.claims.append((began, f"{job}/{number}"))
        with hold_lease(self.state, ClaimedShard(job, number, claim), 30):
            items = records.load_shard(self.storage, job, number)
            time.sleep(self.seconds)
            for part in parts_of(len(items)):
                header, record = made_up(job, number, items, part)
                with suppress(WriteConflict):
                    self.storage.write_once(keys.commit(job, number, part.number), record, "application/jsonl")
                self.state.commit(job, header)
        self.dispatcher.feed()


def made_up(job: JobId, number: int, items: tuple[Item, ...], part: Part) -> tuple[CommitHeader, bytes]:
    """The commit record of a part of a shard of which every item succeeded."""
    places = ((items[place], job.prefix, number, place) for place in part.positions)
    body = "".join(ROW % (json.dumps(item.id), item.index, *two, *two) for item, *two in places).encode()
    header = CommitHeader(
        shard=number,
        part=part.number,
        parts=part.of,
        succeeded=len(part.positions),
        failed=0,
        seconds=1.0,
        worker="simulated",
        sha256=hashlib.sha256(body).hexdigest(),
    )
    return header, header.model_dump_json().encode() + b"\n" + body


def main(workers: int, seconds: float) -> None:
    """Run until the input is closed."""
    settings = Settings()
    storage, dispatcher = open_storage(settings), Dispatcher(celery_app(settings, "explain"))
    # Found out before the first shard, as a real worker does when it starts.
    assert storage.has_conditional_writes
    stopped, seen = threading.Event(), Seen()
    crew = [
        threading.Thread(
            target=SimulatedWorker(storage, open_state(settings.redis_url), dispatcher, seconds, seen).run,
            args=[stopped],
        )
        for _ in range(workers)
    ]
    for thread in crew:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    stopped.set()
    for thread in crew:
        thread.join()
    print(json.dumps(asdict(seen)), flush=True)


def _ids(raw: Any) -> tuple[JobId, int]:
    """Whose shard a message is about."""
    tenant, job, number = json.loads(base64.b64decode(json.loads(raw)["body"]))[0]
    return JobId(tenant, job), number


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
