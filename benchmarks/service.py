"""A service on loopback for the benchmarks that need one: real Redis, real object store, API and workers."""

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.subjects import PHOTOS
from heatmill import Client
from heatmill.client.http import Retries, Transport
from heatmill.client.uploads import upload
from heatmill.local.layout import StackOptions
from heatmill.local.stack import Stack
from heatmill.schemas import ItemRequest, Job, MethodRequest

# Whoever asks takes time of the cores that compute: once in so much of what has passed, and no more often than this.
POLL_SECONDS, POLL_SHARE = 0.01, 0.03
# Of a photo as a camera's thumbnail or a data set has it.
SIDE = 320


@dataclass(frozen=True)
class Service:
    """A running stack, and a client of it."""

    stack: Stack
    client: Client

    def uploaded(self, files: Sequence[Path]) -> list[str]:
        """URIs of the files, which are stored now."""
        with closing(Transport(self.stack.url, {}, Retries())) as api, closing(Transport("", {}, Retries())) as store:
            return upload(api, store, files)

    def seconds_to_last_commit(self, model: str, method: MethodRequest, images: Sequence[str]) -> float:
        """From the POST until the last shard of its job is committed."""
        started = time.perf_counter()
        job = self.submit(model, method, images)
        while job.counts.total is None or job.counts.done < job.counts.total:
            time.sleep(max(POLL_SECONDS, POLL_SHARE * (time.perf_counter() - started)))
            job = self.client.job(job.id)
        taken = time.perf_counter() - started
        # The next job must not meet what finishes this one.
        job = self.client.wait(job.id)
        if job.state != "succeeded":
            raise RuntimeError(f"job {job.id} {job.state}: {job.counts}")
        return taken

    def submit(self, model: str, method: MethodRequest, images: Sequence[str]) -> Job:
        """A job that takes nothing from the cache."""
        items = [ItemRequest(id=str(number), image=image) for number, image in enumerate(images)]
        return self.client.submit(model, [method], items=items, cache=False)


@contextmanager
def service(folder: Path, workers: int = 1) -> Iterator[Service]:
    """A service with data in a folder."""
    with (
        Stack(StackOptions(data_dir=folder, port=0, workers=workers)) as stack,
        Client(stack.url) as client,
    ):
        yield Service(stack, client)


def jpegs(folder: Path, count: int) -> list[Path]:
    """Different photos as JPEG files: crops of those that scikit-image ships."""
    sources = [Image.open(str(files("skimage") / "data" / name)).convert("RGB") for name in PHOTOS]
    chosen = np.random.default_rng(0)
    found = []
    for number in range(count):
        photo = sources[number % len(sources)]
        side = min(SIDE, *photo.size)
        left, top = (int(chosen.integers(0, length - side + 1)) for length in photo.size)
        data = io.BytesIO()
        photo.crop((left, top, left + side, top + side)).save(data, "JPEG", quality=90 - number % 7)
        file = folder / f"{number:04}.jpg"
        file.write_bytes(data.getvalue())
        found.append(file)
    return found
