"""Results by content: what an earlier job of the tenant made of the same image in the same way is copied, not made.

An entry tells of one image and method, with all its targets: their rows, and by these where heatmaps and attributions
lie in the job that made them. They are copied into the job that takes them, so each job owns what it shows. An entry
lives under the sha256 of all that its results depend on, see `result_cache.key`. It is written after the commit record
of its shard.

The cache can be lost at any moment: an entry that is missing, damaged, or tells of objects that are gone is a miss, and
so is a store that does not answer.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import groupby
from typing import Annotated

import structlog
from pydantic import StringConstraints

from heatmill.errors import RecordDamaged, RecordTooNew, StorageUnavailable
from heatmill.images.source_uri import uris_in
from heatmill.jobs.documents import decode, encode
from heatmill.jobs.planner import ranks
from heatmill.jobs.records import CACHED_FROM
from heatmill.schemas import Item, Row, Schema
from heatmill.storage import keys
from heatmill.storage.bucket import AccessRefused, ObjectMissing, S3Storage
from heatmill.storage.keys import JOB_PATTERN, JobId
from heatmill_workers.outputs.layout import Layout
from heatmill_workers.result_cache.key import ResultFingerprint

KEEP_THREADS = 8
# What a commit may wait for its entries: thousands take seconds, and a store that hangs must not hold a job up.
KEEP_SECONDS = 10.0

log = structlog.get_logger()


class Entry(Schema):
    """What is stored; it names its own key, so that one that was put in another's place is known."""

    key: str
    job: Annotated[str, StringConstraints(pattern=f"^{JOB_PATTERN}$")]
    rows: tuple[Row, ...]


class ResultCache:
    """The tenant's cache, as one shard uses it. Safe in threads.

    Args:
        storage: The bucket.
        layout: Takes the results of the shard at work.
        fingerprint: What this shard's results depend on. Its plan says whether earlier results are taken; those of this
            job are kept for later ones in any case.
    """

    def __init__(self, storage: S3Storage, layout: Layout, fingerprint: ResultFingerprint) -> None:
        self._storage, self._layout, self._fingerprint = storage, layout, fingerprint
        self._plan = plan = fingerprint.plan
        self._job = layout.outputs.job
        self._reads_enabled = plan.cache
        # What lies under an s3:// URI may change; an upload is known by its content.
        self._methods = [
            method
            for method in (plan.methods if fingerprint.is_known else ())
            if all(uri.startswith("upload://") for uri in uris_in(method.params).values())
        ]
        self._pending_keys: dict[tuple[int, str], str] = {}

    def lookup(self, item: Item, sha256: str) -> dict[str, tuple[Row, ...]]:
        """What is known of an image, by method: rows of this item, whose objects have been copied into this job."""
        found: dict[str, tuple[Row, ...]] = {}
        for method in self._methods:
            key = keys.cached(self._job.tenant, self._fingerprint.key(item, sha256, method))
            rows = self._rows(item, method.name, key) if self._reads_enabled else None
            if rows is None:
                self._pending_keys[item.index, method.name] = key
            else:
                found[method.name] = rows
        return found

    def covers_all_methods(self, found: Mapping[str, object]) -> bool:
        """Whether nothing remains to be done for an item: what a map is made of is never cached."""
        return self._plan.map is None and len(found) == len(self._plan.methods)

    def store(self, rows: Iterable[Row]) -> None:
        """Write an entry for each item and method that was made in whole by this shard, whose record is committed."""
        entries = {}
        for (index, method), results in groupby(rows, lambda row: (row.index, row.method)):
            key, made = self._pending_keys.get((index, method)), tuple(results)
            if key is not None and all(row.status == "succeeded" for row in made):
                # What the caller called the image goes when the job is deleted.
                nameless = tuple(row.model_copy(update={"item": "", "index": 0}) for row in made)
                entries[key] = Entry(key=key, job=self._job.job, rows=nameless)
        if not entries:
            return
        pool = ThreadPoolExecutor(KEEP_THREADS)
        written = [pool.submit(self._write, key, entry) for key, entry in entries.items()]
        _, late = wait(written, KEEP_SECONDS)
        pool.shutdown(wait=False, cancel_futures=True)
        if late:
            log.warning("cache entries not written", reason="the store takes too long", entries=len(late))

    def _rows(self, item: Item, method: str, key: str) -> tuple[Row, ...] | None:
        try:
            entry = decode(Entry, key, self._storage.get(key))
            self._check(entry, item, method, key)
            return tuple(self._copied(row, item, entry.job) for row in entry.rows)
        except ObjectMissing:
            return None
        except (ValueError, RecordDamaged, RecordTooNew, AccessRefused) as error:
            log.warning("cache entry not usable", key=key, error=str(error))
            return None
        except StorageUnavailable as error:
            # Each further try would take as long as this one; whatever else the shard needs will find out.
            self._reads_enabled = False
            log.warning("cache not asked any more", error=str(error))
            return None

    def _check(self, entry: Entry, item: Item, method: str, key: str) -> None:
        if entry.key != key:
            raise ValueError(f"it is the entry of {entry.key}")
        theirs = JobId(self._job.tenant, entry.job).prefix
        known = [(row.rank, row.method, row.status) for row in entry.rows]
        if known != [(rank, method, "succeeded") for rank in range(ranks(item, self._plan.top_k))]:
            raise ValueError(f"it tells of {known}")
        for row in entry.rows:
            files = (row.heatmap, row.attribution, *([row.preview] if row.preview else ()))
            if not all(stored and stored.key.startswith(theirs) for stored in files):
                raise ValueError(f"it does not say where the objects of {method} lie in job {entry.job}")

    def _copied(self, row: Row, item: Item, job: str) -> Row:
        provenance = {**row.provenance, CACHED_FROM: job}
        ours = {"item": item.id, "index": item.index, "provenance": provenance}
        return self._layout.copy(row.model_copy(update=ours))

    def _write(self, key: str, entry: Entry) -> None:
        try:
            self._storage.put(key, encode(entry, exclude_defaults=True), "application/json")
        except StorageUnavailable as error:
            log.warning("cache entry not written", key=key, error=str(error))
