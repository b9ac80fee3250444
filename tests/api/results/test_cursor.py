"""What a page of results costs does not grow with the job."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from heatmill.storage.bucket import S3Storage
from heatmill_api.results.cursor import LISTED
from tests.api.requests import answered, commit, row, submit

SHARDS = 3 * LISTED


def test_a_page_lists_few_of_many_shards_and_reads_those_it_shows(
    client: FlaskClient, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(client, items=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: commit(storage, job, number, row(2 * number), row(2 * number + 1)), range(SHARDS)))
    listed: list[int] = []
    read: list[str] = []

    def note(parsed: dict[str, Any], **_: Any) -> None:
        listed.append(parsed["KeyCount"])

    really_get = S3Storage.get

    def get(self: S3Storage, key: str, max_bytes: int | None = None) -> bytes:
        read.append(key)
        return really_get(self, key, max_bytes)

    monkeypatch.setattr(S3Storage, "get", get)
    events = storage.client.meta.events
    events.register("after-call.s3.ListObjectsV2", note)
    try:
        found = answered(client.get(f"/v1/jobs/{job.job}/results?page_size=4"))
    finally:
        events.unregister("after-call.s3.ListObjectsV2", note)
    assert [each["index"] for each in found["results"]] == [0, 1, 2, 3]
    assert listed == [LISTED]
    assert 0 < len([path for path in read if "/results/" in path]) <= 3
