"""The checker: reads what a job left in the store, and nothing else, and holds it against the invariants."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from heatmill.jobs import records
from heatmill.schemas import Job, Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import CommitName, JobId
from tests.faults.photos import Photo

METHOD = "saliency"
READERS = 8

Pictures = Mapping[str, tuple[str, str]]
"""Item id -> sha256 of its heatmap and of its attribution."""


@dataclass(frozen=True)
class History:
    """What became of a job, from storage alone.

    Raises (each method):
        AssertionError: An invariant is broken.
    """

    storage: S3Storage
    job: JobId

    def final(self) -> Job:
        """The terminal job, of which nothing is left open."""
        final = records.load_final(self.storage, self.job)
        assert final is not None, f"{self.job} is not terminal"
        assert not self.storage.exists(keys.open_marker(self.job))
        return final

    def rows(self) -> list[Row]:
        """All rows, of commit records that are whole and of which each shard has one."""
        plan = records.load_plan(self.storage, self.job)
        final = self.final()
        assert plan is not None
        rows = []
        for number, names in records.committed_shards(self.storage, self.job):
            shard = [row for name in names for row in self._sound_rows(name)]
            items = [item.id for item in records.load_shard(self.storage, self.job, number)]
            assert final.counts.cancelled or [row.item for row in shard] == items, "one result per item, in their order"
            rows += shard
        assert (final.counts.succeeded, final.counts.failed) == _counts(rows)
        whole = records.committed(self.storage, self.job)
        assert final.counts.cancelled or (len(whole.shards), whole.half_done) == (plan.shards, {})
        assert final.counts.total == plan.results
        return rows

    def pictures(self) -> Pictures:
        """What is stored of every item that succeeded."""

        def read(row: Row) -> tuple[str, tuple[str, str]]:
            assert row.heatmap is not None
            assert row.attribution is not None
            return row.item, (self._sha256(row.heatmap.key), self._sha256(row.attribution.key))

        with ThreadPoolExecutor(READERS) as pool:
            return dict(pool.map(read, [row for row in self.rows() if row.status == "succeeded"]))

    def check(self, photos: Sequence[Photo], reference: Pictures, failed: Mapping[str, str] | None = None) -> None:
        """Every item has one result: the heatmap of a run without faults, or the error that is expected of it.

        Args:
            photos: The job's items.
            reference: What a run without faults gave for all of them but the failed ones.
            failed: Item id -> the code of its error.
        """
        failed = failed or {}
        rows = self.rows()
        assert [row.item for row in rows] == [photo.id for photo in photos]
        assert {row.method for row in rows} == {METHOD}
        assert {row.item: row.error.type.rsplit("/", 1)[1] for row in rows if row.error} == dict(failed)
        assert self.pictures() == {photo.id: reference[photo.id] for photo in photos if photo.id not in failed}
        assert self.final().state == ("partly_failed" if failed else "succeeded")

    def _sound_rows(self, name: CommitName) -> list[Row]:
        """The rows of a commit record whose checksum and counts fit them."""
        header, found = records.load_commit(self.storage, self.job, *name)
        rows = list(found)
        body = self.storage.get(keys.commit(self.job, *name)).split(b"\n", 1)[1]
        assert header.sha256 == hashlib.sha256(body).hexdigest()
        assert (header.succeeded, header.failed) == _counts(rows)
        return rows

    def _sha256(self, key: str) -> str:
        return hashlib.sha256(self.storage.get(key)).hexdigest()


def _counts(rows: Sequence[Row]) -> tuple[int, int]:
    succeeded = sum(row.status == "succeeded" for row in rows)
    return succeeded, len(rows) - succeeded
