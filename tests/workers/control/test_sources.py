"""Prefixes and manifests become items; a bad line is an item that has failed already."""

import json
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatmill.catalogue.catalogue import Catalogue, load_catalogue
from heatmill.errors import ModelNotOnThisWorker, SourceUnreadable, TransientError
from heatmill.images.source_uri import SourceRules, UriRefused
from heatmill.jobs import records
from heatmill.jobs.records import load_request
from heatmill.schemas import Item, Row
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import CommitName, JobId, ShardId
from heatmill.storage.lines import cut_lines
from heatmill_workers.control.line_ids import LineIds
from heatmill_workers.control.sources import Listing, items_of
from tests.workers.jobs import accept

UPLOAD = f"upload://{'a' * 64}"

ListUri = Callable[..., list[Item]]


@pytest.fixture
def list_uri(storage: S3Storage, sources: str) -> ListUri:
    """Lists a source of the source bucket."""
    listing = Listing(storage, SourceRules("default", (f"s3://{sources}/",), storage.bucket), load_catalogue())

    def listed(path: str, after: Item | None = None) -> list[Item]:
        job: JobId = accept(storage, source={"uri": f"s3://{sources}/{path}"})
        return [item for item in items_of(listing, load_request(storage, job))(after) if item is not None]

    return listed


def manifest(storage: S3Storage, sources: str, *lines: object) -> str:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    storage.of_bucket(sources).put("list.jsonl", text.encode())
    return "list.jsonl"


def test_a_worker_that_does_not_know_the_job_s_model_blames_no_line(storage: S3Storage, sources: str) -> None:
    name = manifest(storage, sources, {"image": UPLOAD, "target": "espresso"})
    accepted = load_request(storage, accept(storage, source={"uri": f"s3://{sources}/{name}"}))
    rules = SourceRules("default", (f"s3://{sources}/",), storage.bucket)

    with pytest.raises(ModelNotOnThisWorker, match=r"same models\.toml as the API"):
        list(items_of(Listing(storage, rules, Catalogue((), ())), accepted)(None))


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


@pytest.mark.parametrize(
    ("ids", "failed"),
    [
        (["one", "two", "two"], {2: "the id 'two' is that of line 2 already"}),
        (["a", "b", "a", "b", "a"], {2: "line 1 already", 3: "line 2 already", 4: "line 1 already"}),
        (["1", None], {1: "its position, '1'|position, '1', is that of line 1 already"}),
        ([None, "0"], {1: "the id '0' is that of line 1 already"}),
        ([None, None, "x"], {}),
        (["A", "a", "cr\u00e8me", "cre\u0300me", "stra\u00dfe", "strasse", "a ", "00", "a\u200b"], {}),
        (["line 2", "line 2"], {1: "line 1 already"}),
    ],
)
def test_a_line_that_repeats_an_id_fails_and_names_the_earlier_line(
    storage: S3Storage, sources: str, list_uri: ListUri, ids: list[str | None], failed: dict[int, str]
) -> None:
    lines = [{"image": UPLOAD} | ({} if name is None else {"id": name}) for name in ids]
    name = manifest(storage, sources, *lines)
    items = list_uri(name)
    assert [item.id for item in items] == [given or str(index) for index, given in enumerate(ids)]
    told = {item.index: item.error.detail for item in items if item.error}
    assert told.keys() == failed.keys()
    assert all(any(part in told[index] for part in words.split("|")) for index, words in failed.items())
    for cut in range(len(items)):
        assert list_uri(name, items[cut]) == items[cut + 1 :]


def test_a_listing_pauses_where_it_finds_nothing_for_long(
    storage: S3Storage, sources: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank lines, lines that were listed before, and objects that are no images."""
    monkeypatch.setattr("heatmill_workers.control.sources.AT_A_TIME", 4)
    lines = [*[{"image": UPLOAD}] * 9, *[""] * 9]
    for number in range(9):
        storage.of_bucket(sources).put(f"texts/{number}.txt", b"x")
    storage.of_bucket(sources).put("texts/last.png", b"x")
    rules = SourceRules("default", (f"s3://{sources}/",), storage.bucket)
    for path, items, pauses in ((manifest(storage, sources, *lines), 9, 4), ("texts/", 1, 2)):
        job = accept(storage, source={"uri": f"s3://{sources}/{path}"})
        listed = items_of(Listing(storage, rules, load_catalogue()), load_request(storage, job))
        everything = list(listed(None))
        assert (len(everything) - everything.count(None), everything.count(None)) == (items, pauses)
        if items > 1:
            assert list(listed(everything[-6])).count(None) == pauses


def test_a_manifest_of_bad_lines_is_refused_once_it_is_clear_that_it_is_none(
    storage: S3Storage, sources: str, list_uri: ListUri, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill_workers.control.sources.BAD_LINES", 3)
    good, declared = {"image": UPLOAD}, {"image": UPLOAD, "error": "the file cannot be read"}
    assert len(list_uri(manifest(storage, sources, *["{"] * 3, *[good] * 5))) == 8, "as many as may be bad in any case"
    assert len(list_uri(manifest(storage, sources, *[good] * 50, *["{"] * 5))) == 55, "or a tenth"
    assert len(list_uri(manifest(storage, sources, *[declared] * 9))) == 9, (
        "what a caller says of a file is no bad line"
    )
    with pytest.raises(SourceUnreadable, match=r"4 of the first 6 lines of the manifest are bad, .* line 6: not JSON"):
        list_uri(manifest(storage, sources, good, good, *["{"] * 100))
    with pytest.raises(SourceUnreadable, match="ids must differ"):
        list_uri(manifest(storage, sources, *[{"id": "one", "image": UPLOAD}] * 100))


def test_a_repeated_id_names_lines_as_an_editor_counts_them(
    storage: S3Storage, sources: str, list_uri: ListUri
) -> None:
    name = manifest(storage, sources, "", {"id": "a", "image": UPLOAD}, " ", {"id": "a", "image": UPLOAD}, "")
    error = list_uri(name)[1].error
    assert error
    assert error.detail == "line 4: the id 'a' is that of line 2 already; ids must differ"
    assert error.model_dump()["line"] == 4


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ({"id": "no image"}, "no image"),
        ({"id": "a number", "image": 5}, "a number"),
        ({"id": "no label", "image": UPLOAD, "target": "espreso"}, "no label"),
        ({"id": "not allowed", "image": "ftp://example.org/a.png"}, "not allowed"),
        ({"id": "", "image": UPLOAD}, "line 1"),
        ({"id": "two\nlines", "image": UPLOAD}, "line 1"),
        ({"id": 7, "image": UPLOAD}, "7"),
        ({"id": True, "image": UPLOAD}, "line 1"),
        ({"image": 5}, "line 1"),
        ('{"id": "x", "id": "y", "image": "' + UPLOAD + '"}', "line 1"),
        ('{"id": "x", "image": NaN}', "line 1"),
        ('{"deep": ' + "[" * 5000 + "]" * 5000 + "}", "line 1"),
    ],
)
def test_a_bad_line_has_the_id_that_it_gives(
    storage: S3Storage, sources: str, list_uri: ListUri, line: object, name: str
) -> None:
    bad, repeated = list_uri(manifest(storage, sources, line, {"id": name, "image": UPLOAD}))
    assert (bad.id, bad.error is None) == (name, False)
    # An id names one line, also where that line has failed and is called by its number.
    assert repeated.error
    assert "is that of line 1 already" in repeated.error.detail


def test_a_bad_line_that_gives_no_id_is_called_as_no_other_line(
    storage: S3Storage, sources: str, list_uri: ListUri
) -> None:
    lines = [{"id": "line 2", "image": UPLOAD}, "broken", "broken too", {"id": "line 3", "image": UPLOAD}]
    name = manifest(storage, sources, *lines, {"id": "line 2 (2)", "image": UPLOAD}, {"id": "x", "image": UPLOAD})
    items = list_uri(name)
    assert [(item.id, item.error is None) for item in items] == [
        ("line 2", True),
        ("line 2 (2)", False),
        ("line 3", False),
        ("line 3", False),
        ("line 2 (2)", False),
        ("x", True),
    ]
    assert [item.error.detail.split(":")[0] for item in items if item.error] == ["line 2", "line 3", "line 4", "line 5"]
    for cut in range(len(items)):
        assert list_uri(name, items[cut]) == items[cut + 1 :]


def test_a_line_of_two_ids_is_none_of_them(storage: S3Storage, sources: str, list_uri: ListUri) -> None:
    name = manifest(storage, sources, '{"id": "x", "id": "y", "image": "' + UPLOAD + '"}')
    error = list_uri(name)[0].error
    assert error
    assert "'id' is given twice" in error.detail


def test_the_ids_of_a_long_manifest_do_not_lie_in_memory() -> None:
    many = 50_000
    with LineIds() as ids:
        tracemalloc.start()
        try:
            assert all(ids.claim(f"photo {number}", number) == number for number in range(many))
            assert ids.claim("photo 7", many) == 7
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # A set of these takes 5 MB.
    assert most < 500_000


def test_a_full_disk_puts_a_plan_off() -> None:
    ids = LineIds()
    with ids:
        ids.claim("a", 1)
    with pytest.raises(TransientError, match="temporary folder"):
        ids.claim("b", 2)


def test_a_key_that_cannot_be_an_id_fails_alone(storage: S3Storage, sources: str, list_uri: ListUri) -> None:
    long = "/".join(["d" * 150] * 4)
    keys_ = ["odd/a.jpg", "odd/b\nc.jpg", "odd/e\x1b[31m.jpg", f"odd/{long}/x.jpg", "odd/z.jpg"]
    for key in keys_:
        storage.of_bucket(sources).put(key, b"x")

    items = list_uri("odd/")

    assert [(item.id, item.error is None) for item in items if item.error is None] == [("a.jpg", True), ("z.jpg", True)]
    failed = {item.index: (item.id, item.error.detail) for item in items if item.error}
    assert failed[1][0] == r"b\nc.jpg (item 1)"
    assert failed.keys() == {1, 2, 3}
    assert all(len(name) <= 512 and "\x1b" not in name and "\n" not in name for name, _ in failed.values())
    assert {words for _, words in failed.values()} == {
        "the name cannot be an id: it has control characters",
        "the name cannot be an id: it has 609 characters; the limit is 512",
    }
    for cut in range(5):
        assert list_uri("odd/", items[cut]) == items[cut + 1 :]


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
        storage.write_once(
            keys.commit(origin, shard), records.commit_record(ShardId(origin, shard), rows, 1.0, "test")[1]
        )
    job = accept(storage, source={"uri": f"job://{origin.job}/failed"})
    listing = Listing(storage, SourceRules("default", (), storage.bucket), load_catalogue())
    list_items = items_of(listing, load_request(storage, job))

    found = [item for item in list_items(None) if item is not None]

    assert [(item.index, item.id, item.target) for item in found] == [
        (0, "photo-1", 1),
        (1, "photo-4", 4),
        (2, "photo-5", 5),
    ]
    assert [item for item in list_items(found[0]) if item is not None] == found[1:]


def test_a_job_that_goes_while_its_failed_items_are_listed_is_not_half_listed(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = accept(storage, items=[{"image": UPLOAD}])
    # The listing of its commit records was read, and then they were swept.
    monkeypatch.setattr(records, "committed_names", lambda *_: iter([CommitName(0, 0)]))
    job = accept(storage, source={"uri": f"job://{origin.job}/failed"})
    listing = Listing(storage, SourceRules("default", (), storage.bucket), load_catalogue())

    with pytest.raises(SourceUnreadable, match="no such object"):
        list(items_of(listing, load_request(storage, job))(None))
