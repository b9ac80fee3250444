"""What a page of results costs does not grow with the job."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask.testing import FlaskClient

from heatmill.storage import S3Storage
from heatmill_api.rows import LISTED
from tests.api.requests import answered, commit, row, submit

SHARDS = 3 * LISTED


def test_a_page_lists_few_of_many_shards_and_reads_those_it_shows(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: commit(storage, job, number, row(2 * number), row(2 * number + 1)), range(SHARDS)))
    listed: list[int] = []
    read: list[str] = []

    def note(parsed: dict[str, Any], **_: Any) -> None:
        listed.append(parsed["KeyCount"])

    def note_read(params: dict[str, Any], **_: Any) -> None:
        read.append(params["url_path"])

    events = storage.client.meta.events
    events.register("after-call.s3.ListObjectsV2", note)
    events.register("before-call.s3.GetObject", note_read)
    try:
        found = answered(client.get(f"/v1/jobs/{job.job}/results?page_size=4"))
    finally:
        events.unregister("after-call.s3.ListObjectsV2", note)
        events.unregister("before-call.s3.GetObject", note_read)
    assert [each["index"] for each in found["results"]] == [0, 1, 2, 3]
    assert listed == [LISTED]
    assert len([path for path in read if "/results/" in path]) <= 3
