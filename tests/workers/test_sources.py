"""Prefixes and manifests become items; a bad line is an item that has failed already."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatmill import keys, records
from heatmill.catalogue import load_catalogue
from heatmill.image_uris import SourceRules, UriRefused
from heatmill.keys import JobId
from heatmill.lines import cut_lines
from heatmill.records import load_request
from heatmill.schemas import Item, Row
from heatmill.storage import ObjectMissing, S3Storage
from heatmill_workers.sources import Listing, items_of
from tests.workers.jobs import accept

UPLOAD = f"upload://{'a' * 64}"

ListUri = Callable[..., list[Item]]


@pytest.fixture
def list_uri(storage: S3Storage, sources: str) -> ListUri:
    """Lists a source of the source bucket."""
    listing = Listing(storage, SourceRules("default", (f"s3://{sources}/",), storage.bucket), load_catalogue())

    def listed(path: str, after: Item | None = None) -> list[Item]:
        job: JobId = accept(storage, source={"uri": f"s3://{sources}/{path}"})
        return list(items_of(listing, load_request(storage, job))(after))

    return listed


def manifest(storage: S3Storage, sources: str, *lines: object) -> str:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    storage.of_bucket(sources).put("list.jsonl", text.encode())
    return "list.jsonl"


def test_a_prefix_lists_images_only_and_names_them_by_their_path(
    storage: S3Storage, sources: str, list_uri: ListUri
) -> None:
    for name in ("cats/a.jpg", "cats/deep/b.PNG", "cats/notes.txt", "dogs/c.jpg"):
        storage.of_bucket(sources).put(name, b"x")

    items = list_uri("cats/")

    assert [(item.index, item.id, item.image) for item in items] == [
        (0, "a.jpg", f"s3://{sources}/cats/a.jpg"),
        (1, "deep/b.PNG", f"s3://{sources}/cats/deep/b.PNG"),
    ]


def test_a_prefix_without_its_last_slash_names_images_from_the_slash_before_it(
    storage: S3Storage, sources: str, list_uri: ListUri
) -> None:
    for name in ("deep/photos/a.jpg", "deep/photos2/z.jpg"):
        storage.of_bucket(sources).put(name, b"x")

    assert [item.id for item in list_uri("deep/photos")] == ["photos/a.jpg", "photos2/z.jpg"]
    assert [item.id for item in list_uri("deep/photos/")] == ["a.jpg"]
    assert [item.id for item in list_uri("dee")] == ["deep/photos/a.jpg", "deep/photos2/z.jpg"]


def test_a_manifest_may_begin_with_a_byte_order_mark(storage: S3Storage, sources: str, list_uri: ListUri) -> None:
    for first in ("", "\n"):
        name = manifest(storage, sources, "\ufeff" + first + json.dumps({"image": UPLOAD}), {"image": UPLOAD})
        assert [(item.index, item.error) for item in list_uri(name)] == [(0, None), (1, None)]


def test_a_listing_goes_on_after_any_item(storage: S3Storage, sources: str, list_uri: ListUri) -> None:
    for number in range(5):
        storage.of_bucket(sources).put(f"many/{number}.jpg", b"x")
    name = manifest(storage, sources, *({"image": UPLOAD} for _ in range(5)))

    for path in ("many/", name):
        everything = list_uri(path)
        for cut in range(5):
            assert list_uri(path, everything[cut]) == everything[cut + 1 :]


def test_a_manifest_s_labels_become_indices(storage: S3Storage, sources: str, list_uri: ListUri) -> None:
    name = manifest(
        storage, sources, {"id": "x", "image": UPLOAD, "target": "espresso"}, {"image": UPLOAD, "target": 5}
    )

    assert [(item.id, item.target) for item in list_uri(name)] == [("x", 967), ("1", 5)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "JSON"),
        ("[]", "object"),
        ('{"id": "x"}', "image"),
        (json.dumps({"image": UPLOAD, "colour": "red"}), "colour"),
        (json.dumps({"image": "s3://elsewhere/x.jpg"}), "not an allowed source"),
        (json.dumps({"image": "file:///etc/passwd"}), "not read here"),
        (json.dumps({"image": UPLOAD, "target": "espreso"}), "espresso"),
        (json.dumps({"image": UPLOAD, "target": 1000}), "1000"),
        (json.dumps({"image": UPLOAD, "id": "x" * 20_000}), "longer than 16,384 bytes"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "JSON"),
    ],
)
def test_a_bad_line_is_an_item_error_with_its_line_number(
    storage: S3Storage, sources: str, list_uri: ListUri, line: str, reason: str
) -> None:
    name = manifest(storage, sources, {"image": UPLOAD}, "", line, {"image": UPLOAD})

    good, bad, next_good = list_uri(name)

    assert good.error is None
    assert next_good.error is None
    assert [good.index, bad.index, next_good.index] == [0, 1, 2]
    assert bad.error
    assert bad.error.detail.startswith("line 3: ")
    assert reason in bad.error.detail


@given(st.binary(max_size=200), st.integers(1, 30), st.integers(1, 50))
def test_lines_are_the_same_however_the_bytes_arrive(data: bytes, size: int, most: int) -> None:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]

    lines = [line for line in cut_lines(chunks, most) if line.strip()]

    wanted = [line[:most].removesuffix(b"\r") for line in data.split(b"\n")]
    assert lines == [line for line in wanted if line.strip()]


def test_a_source_outside_the_allowed_prefixes_is_refused(list_uri: ListUri, storage: S3Storage) -> None:
    job = accept(storage, source={"uri": f"s3://{storage.bucket}/other-tenant/"})
    rules = SourceRules("default", (f"s3://{storage.bucket}/",), storage.bucket)

    with pytest.raises(UriRefused, match="not an allowed source"):
        items_of(Listing(storage, rules, load_catalogue()), load_request(storage, job))


def test_the_failed_items_of_a_job_are_listed_as_they_were(storage: S3Storage, list_uri: ListUri) -> None:
    origin = accept(storage, items=[{"image": UPLOAD}])
    items = [Item(index=number, id=f"photo-{number}", image=UPLOAD, target=number) for number in range(6)]
    for shard in range(3):
        records.store_shard(storage, origin, shard, items[2 * shard : 2 * shard + 2])
    for shard, indices in enumerate(([1], [], [4, 5])):
        rows = [
            Row(item=f"photo-{index}", index=index, method="lime", rank=0, status="failed") for index in indices
        ] + [Row(item="photo-0", index=2 * shard, method="saliency", rank=0, status="succeeded")]
        storage.write_once(keys.commit(origin, shard), records.commit_record(shard, rows, 1.0, "test")[1])
    job = accept(storage, source={"uri": f"job://{origin.job}/failed"})
    listing = Listing(storage, SourceRules("default", (), storage.bucket), load_catalogue())
    list_items = items_of(listing, load_request(storage, job))

    found = list(list_items(None))

    assert [(item.index, item.id, item.target) for item in found] == [
        (0, "photo-1", 1),
        (1, "photo-4", 4),
        (2, "photo-5", 5),
    ]
    assert list(list_items(found[0])) == found[1:]


def test_a_job_that_goes_while_its_failed_items_are_listed_is_not_half_listed(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = accept(storage, items=[{"image": UPLOAD}])
    # The listing of its commit records was read, and then they were swept.
    monkeypatch.setattr(records, "committed_numbers", lambda _storage, _job: iter([0]))
    job = accept(storage, source={"uri": f"job://{origin.job}/failed"})
    listing = Listing(storage, SourceRules("default", (), storage.bucket), load_catalogue())

    with pytest.raises(ObjectMissing):
        list(items_of(listing, load_request(storage, job))(None))
